"""tools/infer.py with a model that marks what is bright; real detectors: tests/e2e."""
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip('mmcv.ops')

from infer_config import TEXT, infer_args  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from mmcontainer.api import detector as detectors  # noqa: E402
from mmcontainer.api.detector import Detector, choose_device  # noqa: E402
from mmcontainer.api.results import Detection, Detections  # noqa: E402
from mmcontainer.cli import infer as inference  # noqa: E402
from mmcontainer.cli.configs import load_config  # noqa: E402
from mmcontainer.cli.images import ImageFile  # noqa: E402
from mmcontainer.cli.infer import infer  # noqa: E402
from mmcontainer.cli.result_files import OutputNames  # noqa: E402
from mmcontainer.errors import UserError  # noqa: E402
from mmcontainer.fileio import write_atomically  # noqa: E402

META = dict(classes=('bright', 'other'), palette=[(255, 0, 0), (0, 0, 255)])
BOX = (10, 6, 40, 26)  # x1, y1, x2, y2, upright, in an image of 80 x 60
SIZE = (80, 60)


class BrightSpot(nn.Module):
    """Finds the box around all bright pixels of its input."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.dataset_meta, self.names_from = META, 'named by the checkpoint'
        self.seen = []

    def test_step(self, data):
        sample, inputs = data['data_samples'][0], data['inputs'][0]
        self.seen.append(tuple(inputs.shape))
        ys, xs = (inputs.float().mean(dim=0) > 180).nonzero(as_tuple=True)
        box = torch.tensor([[xs.min(), ys.min(), xs.max() + 1., ys.max() + 1.]]) if len(xs) else (
            torch.zeros(0, 4))
        box = box / torch.tensor(sample.scale_factor * 2)
        found = InstanceData(bboxes=box, scores=torch.full((len(box), ), 0.875),
                             labels=torch.zeros(len(box), dtype=torch.long))
        return [DetDataSample(metainfo=sample.metainfo, pred_instances=found)]


@pytest.fixture
def spot(monkeypatch):
    model = BrightSpot()

    def load(cfg, checkpoint, device):
        from mmengine.registry import init_default_scope
        init_default_scope('mmdet')
        return model

    monkeypatch.setattr(detectors, 'load_detector', load)
    return model


@pytest.fixture
def run(spot, tmp_path, monkeypatch, capsys):
    """Return a function that runs infer in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*images, loader='', **options):
        (tmp_path / 'config.py').write_text(TEXT.format(loader=loader))
        code = infer(infer_args(*images, **{'score_thr': 0.3, **options}))
        return (code, *capsys.readouterr())

    return call


def draw_scene():
    picture = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
    picture[BOX[1]:BOX[3], BOX[0]:BOX[2]] = 250
    return Image.fromarray(picture)


# What has to be done to the upright picture so that EXIF's orientation turns it back.
UNDO = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}


def save_turned(path, orientation):
    image, exif = draw_scene(), Image.Exif()
    if UNDO[orientation] is not None:
        image = image.transpose(UNDO[orientation])
    exif[0x0112] = orientation
    image.save(path, quality=100, subsampling=0, exif=exif)


def red_frame(picture):
    """(x1, y1, x2, y2) of what was drawn in red, in units of the picture's size."""
    blue, green, red = picture.astype(int).transpose(2, 0, 1)
    ys, xs = np.nonzero((red > 180) & (green < 90) & (blue < 90))
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / (picture.shape[1::-1] * 2)


def bright_area(picture):
    ys, xs = np.nonzero(picture.min(axis=2) > 180)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / (picture.shape[1::-1] * 2)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('loader', [
    '', "color_type='color_ignore_orientation'", "imdecode_backend='pillow'",
    "color_type='color_ignore_orientation', imdecode_backend='pillow'"
])
def test_boxes_lie_on_objects_in_every_orientation(run, tmp_path, loader, orientation):
    save_turned(tmp_path / 'a.jpg', orientation)
    assert run('a.jpg', loader=loader)[0] == 0
    result = json.loads((tmp_path / 'out' / 'a.json').read_text())
    drawn = cv2.imread(str(tmp_path / 'out' / 'a.jpg'))
    # The JSON's pixels are those of the drawn picture, enlarged.
    height, width = result['height'], result['width']
    assert drawn.shape[1] / drawn.shape[0] == pytest.approx(width / height, rel=0.01)
    box = np.array(result['detections'][0]['bbox']) / [width, height, width, height]
    np.testing.assert_allclose(box, bright_area(drawn), atol=0.03)
    np.testing.assert_allclose(box, red_frame(drawn), atol=0.03)
    if 'ignore' in loader:
        stored = Image.open(tmp_path / 'a.jpg').size
        assert (width, height) == stored
    else:  # upright, as every viewer shows it
        np.testing.assert_allclose(result['detections'][0]['bbox'], BOX, atol=1)
        assert (width, height) == SIZE


def test_grey_pipeline_gives_the_model_one_channel(run, spot, tmp_path):
    draw_scene().save(tmp_path / 'a.png')
    assert run('a.png', loader="color_type='grayscale'")[0] == 0
    assert spot.seen == [(1, 120, 160)]
    assert cv2.imread(str(tmp_path / 'out' / 'a.jpg')).shape == (720, 960, 3)


@pytest.mark.parametrize('mode, name', [
    ('RGBA', 'a.png'), ('P', 'a.png'), ('CMYK', 'a.jpg'), ('L', 'a.jpg'), ('LA', 'a.png'),
    ('I;16', 'a.png')])
@pytest.mark.parametrize('loader', ['', "to_float32=True"])
def test_every_kind_of_pixel(run, tmp_path, mode, name, loader):
    image = draw_scene()
    if mode == 'I;16':
        image = Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    image.save(tmp_path / name)
    assert run(name, loader=loader)[0] == 0
    result = json.loads((tmp_path / 'out' / 'a.json').read_text())
    np.testing.assert_allclose(result['detections'][0]['bbox'], BOX, atol=1)


def test_wide_grey_images_are_not_read_as_white(run, tmp_path):
    Image.fromarray(np.full((60, 80), 900, np.uint16)).save(tmp_path / 'a.png')
    code, _, errors = run('a.png', loader="imdecode_backend='pillow'")
    assert code == 1 and "a.png: is grey with 16 or more bits" in errors


def test_bad_images_are_reported_and_the_others_done(run, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in ('a.jpg', 'z.png'):
        draw_scene().save(folder / name)
    Image.new('RGB', (3000, 1)).save(folder / 'flat.png')
    Image.new('RGB', (1, 5000)).save(folder / 'narrow.png')
    Image.new('RGB', (2000, 2000)).save(folder / 'large.png')
    (folder / 'empty.jpg').write_bytes(b'')
    (folder / 'text.jpg').write_text('no picture')
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(folder / 'cut.jpg', quality=95)
    (folder / 'cut.jpg').write_bytes((folder / 'cut.jpg').read_bytes()[:-3000])
    draw_scene().save(folder / 'two.tif', save_all=True, append_images=[draw_scene()])
    code, output, errors = run(folder, 'gone.jpg')
    assert code == 1
    assert output.splitlines() == [
        'BrightSpot of x.pth; 2 classes, named by the checkpoint; on cpu',
        f'{folder}/a.jpg: 1 objects -> out/a.jpg',
        f'{folder}/two.tif (its first picture): 1 objects -> out/two.jpg',
        f'{folder}/z.png: 1 objects -> out/z.jpg']
    for name, reason in {
            'gone.jpg': 'no such file', 'empty.jpg': 'cannot be read as an image',
            'text.jpg': 'cannot be read as an image', 'cut.jpg': 'truncated',
            'flat.png': 'Resize of the test pipeline fails on 3000 x 1 pixels',
            'narrow.png': 'Resize of the test pipeline fails on 1 x 5000 pixels',
            'large.png': '2000 x 2000 are 4 million pixels, and --max-pixels allows 1 million',
    }.items():
        line, = (line for line in errors.splitlines() if name in line)
        assert reason in line
    assert errors.endswith('error: 7 could not be done, see above\n') and 'Traceback' not in errors
    assert sorted(os.listdir(tmp_path / 'out')) == [
        f'{stem}.{kind}' for stem in ('a', 'two', 'z') for kind in ('jpg', 'json')]


def test_names_that_are_no_text(run, tmp_path):
    folder = bytes(tmp_path) + b'/images'
    os.mkdir(folder)
    for name in (b'caf\xe9.png', b'\xff.png', 'grün.png'.encode()):
        with open(folder + b'/' + name, 'wb') as file:
            draw_scene().save(file, format='PNG')
    code, output, _ = run('images')
    assert code == 0
    output.encode('utf-8')
    assert 'images/caf\\xe9.png: 1 objects' in output and 'images/grün.png' in output
    written = sorted(os.listdir(bytes(tmp_path) + b'/out'))
    assert written[:2] == [b'caf\xe9.jpg', b'caf\xe9.json'] and len(written) == 6
    result = json.loads((tmp_path / 'out' / os.fsdecode(b'caf\xe9.json')).read_text('utf-8'))
    assert result['image'].encode('utf-8') == b'images/caf\\xe9.png'


def test_sub_folders(run, tmp_path):
    for name in ('images/1.png', 'images/b/1.png', 'images/b/c/1.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        draw_scene().save(tmp_path / name)
    code, output, _ = run('images')
    assert code == 0 and 'images: left out 1 folder (--recursive enters them)' in output
    assert sorted(os.listdir(tmp_path / 'out')) == ['1.jpg', '1.json']
    for _ in range(2):  # the second time without the results of the first
        assert run('images', recursive=True, out_dir='images/b/results')[0] == 0
        results = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob(
            'images/b/results/**/*.json'))
        assert results == [f'images/b/results/{name}.json' for name in ('1', 'b/1', 'b/c/1')]


def test_a_name_too_long_for_a_result(run, tmp_path):
    for name in ('a' * 251 + '.png', 'b.png'):
        draw_scene().save(tmp_path / name)
    code, _, errors = run('a' * 251 + '.png', 'b.png')
    assert code == 1 and 'aa.png: its name is too long for a result' in errors
    assert sorted(os.listdir(tmp_path / 'out')) == ['b.jpg', 'b.json']


def test_pillow_has_no_other_limit(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)  # twice that would be an error
    draw_scene().save(tmp_path / 'a.png')
    assert run('a.png', loader="imdecode_backend='pillow'")[0] == 0
    assert Image.MAX_IMAGE_PIXELS == 1000


class Broken(BrightSpot):
    """Fails on the images whose numbers it is given."""

    def __init__(self, errors):
        super().__init__()
        self.errors, self.calls = errors, 0

    def test_step(self, data):
        self.calls += 1
        if self.calls in self.errors:
            raise self.errors[self.calls]
        return super().test_step(data)


def test_failures_of_the_model_do_not_stop_the_others(run, tmp_path, monkeypatch):
    for number in range(6):
        draw_scene().save(tmp_path / f'{number}.png')
    errors = {1: IndexError('a defect'), 2: IndexError('a defect'), 4: MemoryError(),
              5: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")}
    model = Broken(errors)
    init_default_scope('mmdet')  # as load_detector does
    monkeypatch.setattr(detectors, 'load_detector', lambda *args: model)
    code, output, messages = run(*(f'{number}.png' for number in range(6)))
    assert code == 1 and output.count('1 objects') == 2
    assert messages.count('Traceback') == 1  # of what looks like a defect, once
    for line in ('0.png: IndexError: a defect', '1.png: IndexError: a defect',
                 '3.png: MemoryError: no message', '4.png: RuntimeError: DefaultCPUAllocator'):
        assert f'error: {line}' in messages


def test_boxes_that_are_no_numbers_are_no_json(run, spot, tmp_path, monkeypatch):
    draw_scene().save(tmp_path / 'a.png')
    box = [float('nan')] * 4
    monkeypatch.setattr(detectors, 'describe', lambda *args: Detections(
        'a.png', 60, 80, [Detection(0, 'bright', 1., box)]))
    code, _, errors = run('a.png')
    assert code == 1 and 'a.png: ValueError' in errors and not os.listdir(tmp_path / 'out')


def test_a_full_disk_stops_with_one_message(run, tmp_path, monkeypatch):
    draw_scene().save(tmp_path / 'a.png')

    def fail(picture, path):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmcv.imwrite', fail)
    with pytest.raises(UserError, match='out/a.jpg cannot be written: No space left on device'):
        run('a.png')
    assert os.listdir(tmp_path / 'out') == ['a.json']  # whole, and no half picture
    json.loads((tmp_path / 'out' / 'a.json').read_text())


def test_places_where_results_would_do_harm(run, tmp_path):
    (tmp_path / 'images').mkdir()
    draw_scene().save(tmp_path / 'images' / 'a.png')
    (tmp_path / 'images' / 'a.json').write_text('labels')
    for out_dir, message in (('images', 'results would lie among the images'),
                             ('images/a.png', 'this folder cannot be written'),
                             ('images/a.png/b', 'this folder cannot be written')):
        with pytest.raises(UserError, match=f'--out-dir {out_dir}.*{message}'):
            run('images', out_dir=out_dir)
    assert (tmp_path / 'images' / 'a.json').read_text() == 'labels'
    assert sorted(os.listdir(tmp_path / 'images')) == ['a.json', 'a.png']


@pytest.mark.parametrize('options, message', [
    (dict(score_thr=30.), '--score-thr is a number from 0 to 1'),
    (dict(max_pixels=0), '--max-pixels is a number of pixels'),
])
def test_senseless_options(run, tmp_path, options, message):
    draw_scene().save(tmp_path / 'a.png')
    with pytest.raises(UserError, match=message):
        run('a.png', **options)


def test_nothing_to_do_says_what_was_left_out(run, tmp_path):
    (tmp_path / 'clips').mkdir()
    (tmp_path / 'clips' / 'a.gif').write_bytes(b'')
    with pytest.raises(UserError, match=r'(?s)without images.*left out 1 file .*1 \.gif'):
        run('clips')


def test_pipeline_without_a_loader(run, tmp_path, monkeypatch):
    draw_scene().save(tmp_path / 'a.png')
    monkeypatch.setattr(inference, 'load_config', lambda *args: load_config(
        str(tmp_path / 'config.py'), {'test_dataloader.dataset.pipeline': []}))
    with pytest.raises(UserError, match='reads no image'):
        run('a.png')


def test_the_model_is_given_what_the_pipeline_gives(spot, tmp_path):
    """Transforms that work in place do not change the picture that is drawn on."""
    from mmengine.registry import init_default_scope
    init_default_scope('mmdet')
    (tmp_path / 'config.py').write_text(TEXT.format(loader='').replace(
        "dict(type='Resize', scale=(200, 120), keep_ratio=True)",
        "dict(type='Resize', scale_factor=1.0, keep_ratio=True),"
        "dict(type='RandomErasing', n_patches=1, ratio=0.9)"))
    draw_scene().save(tmp_path / 'a.png')
    detector = Detector.from_model(spot, load_config(str(tmp_path / 'config.py')))
    read = detector.read(str(tmp_path / 'a.png'))
    np.testing.assert_array_equal(read.pixels, cv2.imread(str(tmp_path / 'a.png')))


def test_output_names_never_meet(tmp_path):
    images = [ImageFile(str(tmp_path / path), Path(name)) for path, name in (
        ('x/1.png', '1.png'), ('y/1.jpg', '1.jpg'), ('y/b/1.jpg', 'b/1.jpg'),
        ('out/b/2.jpg', 'b/2.jpg'))]
    names = OutputNames(tmp_path / 'out', images)
    written = [str(names(image).relative_to(tmp_path / 'out')) for image in images]
    assert written == ['1.jpg', '1_2.jpg', 'b/1.jpg', 'b/2_2.jpg']  # the last: not its input


def test_device_that_does_not_exist():
    assert choose_device('cpu') == 'cpu'
    for name in ('cuda:99', 'toaster', 'meta'):
        with pytest.raises(UserError, match=f'device {name} is not available'):
            choose_device(name)


def test_failed_write_leaves_nothing_behind(tmp_path):
    target = tmp_path / 'a.json'
    target.write_text('old')

    def write(path):
        with open(path, 'w') as file:
            file.write('half')
        raise RuntimeError('disk full')

    with pytest.raises(RuntimeError):
        write_atomically(target, write)
    assert target.read_text() == 'old'
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']
