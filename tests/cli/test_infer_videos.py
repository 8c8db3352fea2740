"""tools/infer.py with videos and COCO results, and with a model whose answers are known."""
import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

pytest.importorskip('mmcv.ops')

from infer_config import TEXT, infer_args  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from mmcontainer.api import detector as detectors  # noqa: E402
from mmcontainer.api.detector import Detector  # noqa: E402
from mmcontainer.cli import infer as inference  # noqa: E402
from mmcontainer.cli.configs import load_config  # noqa: E402
from mmcontainer.cli.infer import infer  # noqa: E402
from mmcontainer.cli.progress import image_progress  # noqa: E402
from mmcontainer.cli.videos import Video, video_writer  # noqa: E402
from mmcontainer.errors import UserError  # noqa: E402
from mmcontainer.pipeline import ImageError, take_pixels  # noqa: E402

CLASSES = ('bright', 'other')
SIZE = (48, 64)


class Brightness(nn.Module):
    """Finds two objects in every image; the score of the first is the mean brightness."""

    def __init__(self):
        super().__init__()
        self.dataset_meta = dict(classes=CLASSES, palette=[(255, 0, 0), (0, 0, 255)])
        self.calls, self.errors, self.masks = 0, {}, False

    def test_step(self, data):
        self.calls += 1
        if self.calls in self.errors:
            raise self.errors[self.calls]
        sample, pixels = data['data_samples'][0], data['inputs'][0].float()
        height, width = sample.ori_shape
        share = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.5, 0.25, 1., 1.]])
        found = InstanceData(bboxes=share * torch.tensor([width, height] * 2),
                             scores=torch.stack([pixels.mean() / 255, torch.tensor(0.1)]),
                             labels=torch.tensor([0, 1]))
        if self.masks:
            found.masks = torch.zeros(2, height, width, dtype=torch.bool)
            found.masks[:, 5:20, 10:30] = True
        return [DetDataSample(metainfo=sample.metainfo, pred_instances=found)]


@pytest.fixture
def model():
    return Brightness()


@pytest.fixture
def run(model, tmp_path, monkeypatch, capsys):
    """Return a function that runs infer in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def prepare(args):
        init_default_scope('mmdet')
        return Detector.from_model(model, load_config(args.config))

    monkeypatch.setattr(inference, '_prepare', prepare)

    def call(*images, loader='', **options):
        (tmp_path / 'config.py').write_text(TEXT.format(loader=loader))
        code = infer(infer_args(*images, **{'score_thr': 0.05, **options}))
        return (code, *capsys.readouterr())

    return call


def frame(number):
    return np.full((*SIZE, 3), (40 + 40 * number % 200, 60, 90), np.uint8)


def save_video(path, count=5, codec='mp4v', rate=10):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, SIZE[::-1])
    for number in range(count):
        video.write(frame(number))
    video.release()


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob('*')
                  if path.is_file())


@pytest.mark.parametrize('name, codec', [('clip.mp4', 'mp4v'), ('clip.avi', 'MJPG')])
def test_a_video(run, tmp_path, name, codec):
    save_video(tmp_path / name, codec=codec)
    assert run(name) == (0, f'{name}: 10 objects in 5 images -> out/clip.mp4\n', '')
    result = json.loads((tmp_path / 'out' / 'clip.json').read_text())
    assert list(result) == ['video', 'height', 'width', 'fps', 'frames']
    assert (result['video'], result['height'], result['width']) == (name, *SIZE)
    assert result['fps'] == pytest.approx(10)
    assert [found['frame'] for found in result['frames']] == list(range(5))
    scores = [found['detections'][0]['score'] for found in result['frames']]
    np.testing.assert_allclose(scores, [frame(n).mean() / 255 for n in range(5)], atol=0.02)
    drawn = Video(str(tmp_path / 'out' / 'clip.mp4'))
    pictures = list(drawn)
    assert len(pictures) == 5 and drawn.rate == pytest.approx(10)
    assert pictures[0].shape == (720, 960, 3)
    middle = pictures[4][660:700, 40:400].mean(axis=(0, 1))  # BGR, outside of the boxes
    np.testing.assert_allclose(middle, frame(4)[0, 0], atol=12)


@pytest.mark.parametrize('loader', ['', "color_type='grayscale'", 'to_float32=True'])
def test_images_of_a_video_are_read_as_files_are(run, tmp_path, loader):
    save_video(tmp_path / 'clip.avi', codec='MJPG')
    for number, image in enumerate(Video(str(tmp_path / 'clip.avi'))):
        cv2.imwrite(str(tmp_path / f'{number}.png'), image)
    assert run('clip.avi', *(f'{n}.png' for n in range(5)), loader=loader, no_pictures=True)[0] == 0
    frames = json.loads((tmp_path / 'out' / 'clip.json').read_text())['frames']
    for number, found in enumerate(frames):
        single = json.loads((tmp_path / 'out' / f'{number}.json').read_text())
        assert found['detections'] == single['detections']


def test_a_pipeline_without_a_loader():
    with pytest.raises(UserError, match='reads no image'):
        take_pixels([], frame(0))


def test_folders_hold_images_and_videos(run, tmp_path):
    (tmp_path / 'data').mkdir()
    save_video(tmp_path / 'data' / 'a.mp4')
    cv2.imwrite(str(tmp_path / 'data' / 'a.png'), frame(0))
    (tmp_path / 'data' / 'empty.mp4').write_bytes(b'')
    (tmp_path / 'data' / 'text.avi').write_text('no video')
    save_video(tmp_path / 'data' / 'cut.avi', count=40, codec='MJPG')
    content = (tmp_path / 'data' / 'cut.avi').read_bytes()
    (tmp_path / 'data' / 'cut.avi').write_bytes(content[:len(content) // 2])
    code, output, errors = run('data')
    assert code == 1 and len(output.splitlines()) == 2 and 'Traceback' not in errors
    assert files_in('out') == ['a.json', 'a.mp4', 'a_2.jpg', 'a_2.json']
    lines = errors.splitlines()
    assert lines[0].startswith('error: data/cut.avi: ')
    assert lines[1:3] == [f'error: data/{name}: cannot be read as a video'
                          for name in ('empty.mp4', 'text.avi')]


def test_a_result_never_replaces_a_video(run, tmp_path):
    (tmp_path / 'out').mkdir()
    save_video(tmp_path / 'clip.mp4')
    with pytest.raises(UserError, match='results would lie among the images'):
        run('clip.mp4', out_dir='.')


@pytest.mark.parametrize('error', [KeyboardInterrupt(), UserError('stop'), IndexError('a defect')])
def test_an_error_leaves_nothing_half_written(run, model, tmp_path, error):
    save_video(tmp_path / 'clip.mp4')
    model.errors = {3: error}
    if isinstance(error, IndexError):
        assert run('clip.mp4')[0] == 1
    else:
        with pytest.raises(type(error)):
            run('clip.mp4', coco=True)
    assert os.listdir(tmp_path / 'out') == []


def test_coco_results_until_ctrl_c_are_kept_as_such(run, model, tmp_path):
    for name in ('a.png', 'b.png', 'c.png'):
        cv2.imwrite(str(tmp_path / name), frame(0))
    model.errors = {3: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run('a.png', 'b.png', 'c.png', coco=True, no_pictures=True)
    assert files_in('out') == ['unfinished_predictions.json', 'unfinished_predictions_images.json']
    assert len(json.loads((tmp_path / 'out' / 'unfinished_predictions.json').read_text())) == 4


def test_a_rate_that_mpeg_4_cannot_state(run, tmp_path):
    save_video(tmp_path / 'clip.avi', codec='MJPG', rate=119.873)
    cv2.imwrite(str(tmp_path / 'z.png'), frame(0))
    assert run('clip.avi', 'z.png')[0] == 0
    assert Video(str(tmp_path / 'out' / 'clip.mp4')).rate == pytest.approx(119.87, abs=0.01)
    assert 'out/z.jpg' in {f'out/{name}' for name in files_in('out')}


def test_a_video_that_cannot_be_written_does_not_end_the_run(run, tmp_path, monkeypatch):
    save_video(tmp_path / 'clip.mp4')
    cv2.imwrite(str(tmp_path / 'z.png'), frame(0))
    monkeypatch.setattr(cv2, 'VideoWriter_fourcc', lambda *_: 0)
    code, _, errors = run('clip.mp4', 'z.png')
    assert code == 1 and 'clip.mp4: this OpenCV cannot write it as an MP4' in errors
    assert files_in('out') == ['z.jpg', 'z.json']


@pytest.mark.parametrize('name', ['2024-05-01T12:30:00.mp4', 'with space.mp4'])
def test_odd_names_of_videos(run, tmp_path, name):
    save_video(tmp_path / 'plain.mp4')
    os.rename(tmp_path / 'plain.mp4', tmp_path / name)
    assert run(name)[0] == 0


def test_a_reader_that_goes_away_is_no_fault_of_the_images(run, tmp_path, monkeypatch, capsys):
    def fail(*values, **options):
        raise BrokenPipeError

    cv2.imwrite(str(tmp_path / 'a.png'), frame(0))
    monkeypatch.setattr(inference, 'print', fail, raising=False)
    with pytest.raises(BrokenPipeError):
        run('a.png')
    assert files_in('out') == ['a.jpg', 'a.json']


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    monkeypatch.setattr('mmcontainer.cli.videos.count_images', lambda path: 1)
    with pytest.raises(UserError, match='could not be written completely'):
        with video_writer(str(tmp_path / 'a.mp4'), 10) as write:
            write(frame(0))
            write(frame(1))


def test_a_video_that_ends_early(tmp_path, monkeypatch):
    save_video(tmp_path / 'clip.mp4')
    video = Video(str(tmp_path / 'clip.mp4'))
    assert video.count == 5
    video.count = 20
    with pytest.raises(ImageError, match='broken: 5 of its 20 images can be read'):
        list(video)


def test_formats_that_estimate_their_images(tmp_path):
    """Their number is the length times a rate, of a screen that was recorded now and then 2.5."""
    save_video(tmp_path / 'clip.mkv')
    video = Video(str(tmp_path / 'clip.mkv'))
    video.count = 20
    assert len(list(video)) == 5


@pytest.mark.parametrize('masks', [False, True])
def test_coco_results(run, model, tmp_path, masks):
    from pycocotools.coco import COCO
    model.masks = masks
    for name in ('a.png', 'predictions.png'):
        cv2.imwrite(str(tmp_path / name), frame(0))
    save_video(tmp_path / 'clip.mp4', count=2)
    assert run('a.png', 'predictions.png', 'clip.mp4', coco=True)[0] == 0
    assert files_in('out') == ['a.jpg', 'clip.mp4', 'predictions.jpg', 'predictions.json',
                               'predictions_images.json']
    truth = COCO('out/predictions_images.json')
    assert [image['file_name'] for image in truth.dataset['images']] == [
        'a.png', 'predictions.png', 'clip.mp4/000000', 'clip.mp4/000001']
    found = truth.loadRes('out/predictions.json')
    assert len(found.anns) == 8
    assert [category['name'] for category in found.loadCats(
        [found.anns[1]['category_id'], found.anns[2]['category_id']])] == list(CLASSES)
    height, width = SIZE
    np.testing.assert_allclose(found.anns[1]['bbox'], [
        0.1 * width, 0.2 * height, 0.4 * width, 0.4 * height], atol=2e-3)
    if masks:
        assert found.annToMask(found.anns[1]).sum() == 15 * 20


def test_coco_results_with_the_numbers_of_annotations(run, tmp_path):
    from pycocotools.coco import COCO
    for name in ('images/x/a.png', 'images/b.png', 'images/c.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(tmp_path / name), frame(0))
    (tmp_path / 'truth.json').write_text(json.dumps(dict(
        images=[dict(id=7, file_name='x\\a.png'), dict(id=9, file_name='b.png')], annotations=[],
        categories=[dict(id=90, name='other'), dict(id=5, name='bright')])))
    code, output, errors = run('images', recursive=True, coco=True, annotations='truth.json',
                               no_pictures=True)
    assert code == 1 and 'c.png: truth.json has no such image, or it has been done' in errors
    assert output.count('2 objects -> out/predictions.json') == 2
    assert files_in('out') == ['predictions.json']
    found = COCO('truth.json').loadRes('out/predictions.json')
    assert [(ann['image_id'], ann['category_id']) for ann in found.anns.values()] == [
        (9, 5), (9, 90), (7, 5), (7, 90)]


def test_a_video_with_frames_that_the_annotations_lack_leaves_nothing(run, tmp_path):
    save_video(tmp_path / 'clip.mp4', count=3)
    (tmp_path / 'truth.json').write_text(json.dumps(dict(
        images=[dict(id=7, file_name='clip.mp4/000000')],
        categories=[dict(id=1, name='bright'), dict(id=2, name='other')])))
    code, _, errors = run('clip.mp4', coco=True, annotations='truth.json')
    assert code == 1 and 'clip.mp4: truth.json has no such image' in errors
    assert files_in('out') == ['predictions.json']
    assert json.loads((tmp_path / 'out' / 'predictions.json').read_text()) == []


def test_numbers_that_are_no_json_spoil_no_other_result(run, tmp_path, monkeypatch):
    for name in ('a.png', 'b.png'):
        cv2.imwrite(str(tmp_path / name), frame(0))
    describe = detectors.describe

    def spoil(sample, meta, image, threshold):
        result = describe(sample, meta, image, threshold)
        if image == 'a.png':
            result.detections[0].bbox[0] = float('nan')
        return result

    monkeypatch.setattr(detectors, 'describe', spoil)
    code, _, errors = run('a.png', 'b.png', coco=True)
    assert code == 1 and 'a.png: ValueError' in errors
    assert len(json.loads((tmp_path / 'out' / 'predictions.json').read_text())) == 2


@pytest.mark.parametrize('content, message', [
    (None, 'No such file'), ('no JSON', 'a COCO file with images and categories is expected'),
    ('[]', 'is expected'), ('{"images": [], "categories": [{"id": 1, "name": "bright"}]}',
                            "has no category 'other', which is a class of the model")])
def test_annotations_that_do_not_fit(run, tmp_path, content, message):
    cv2.imwrite(str(tmp_path / 'a.png'), frame(0))
    if content is not None:
        (tmp_path / 'truth.json').write_text(content)
    with pytest.raises(UserError, match=f'--annotations truth.json.*{message}'):
        run('a.png', coco=True, annotations='truth.json')
    assert files_in('out') == []


def test_annotations_without_coco(run, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), frame(0))
    with pytest.raises(UserError, match='--annotations numbers .* add --coco'):
        run('a.png', annotations='truth.json')


def test_without_pictures(run, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), frame(0))
    save_video(tmp_path / 'clip.mp4')
    code, output, _ = run('a.png', 'clip.mp4', no_pictures=True)
    assert code == 0 and '-> out/a.json' in output and '-> out/clip.json' in output
    assert files_in('out') == ['a.json', 'clip.json']


def test_people_see_how_fast_it_goes():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    with image_progress(4, console) as advance:
        for _ in range(4):
            advance()
    assert '4/4' in stream.getvalue() and 'images/s' in stream.getvalue()


def test_a_file_gets_no_bar(capsys):
    with image_progress(4) as advance:
        advance()
        print('a line')
    assert capsys.readouterr() == ('a line\n', '')
