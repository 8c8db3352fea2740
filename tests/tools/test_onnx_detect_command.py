"""tools/onnx_detect.py as a command: files of all kinds in, pictures, videos, JSON and COCO out."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx_files import BOXES, CLASSES, write_detector
from PIL import Image

pytest.importorskip('onnxruntime')


@pytest.fixture
def run(script, tmp_path, monkeypatch, capsys):
    """Return a function that runs the command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.signal, 'signal', lambda *_: None)
    monkeypatch.setattr(sys.stdout, 'reconfigure', lambda **_: None, raising=False)
    write_detector(tmp_path / 'a.onnx')

    def call(*arguments, model='a.onnx'):
        monkeypatch.setattr(sys, 'argv', ['onnx_detect.py', model, *map(str, arguments)])
        return (script.main(), *capsys.readouterr())

    return call


def picture(height=60, width=80):
    return Image.fromarray(np.random.default_rng(0).integers(
        0, 255, (height, width, 3), np.uint8))


def save_video(path, count=5, size=(48, 64), codec='mp4v', rate=10):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, size[::-1])
    for number in range(count):
        video.write(np.full((*size, 3), 40 + 40 * (number % 5), np.uint8))
    video.release()


def read_frames(path):
    video, frames = cv2.VideoCapture(str(path)), []
    while True:
        is_read, frame = video.read()
        if not is_read:
            return frames, video.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob('*')
                  if path.is_file())


def test_an_image(run, tmp_path):
    picture().save(tmp_path / 'a.png')
    assert run('a.png', '--score-thr', '0.2') == (0, 'a.png: 2 objects -> outputs/a.jpg\n', '')
    result = json.loads((tmp_path / 'outputs' / 'a.json').read_text())
    assert list(result) == ['image', 'height', 'width', 'detections']
    assert (result['image'], result['height'], result['width']) == ('a.png', 60, 80)
    best = result['detections'][0]
    assert (best['label'], best['class'], best['score']) == (0, CLASSES[0], 0.75)
    np.testing.assert_allclose(best['bbox'], BOXES[1] * [80, 60, 80, 60], atol=1e-3)
    assert cv2.imread(str(tmp_path / 'outputs' / 'a.jpg')).shape == (60, 80, 3)
    assert run('a.png', '--no-pictures', '--out-dir', 'b')[:2] == (
        0, 'a.png: 2 objects -> b/a.json\n')
    assert files_in('b') == ['a.json']


def test_folders_and_names_that_meet(run, tmp_path):
    for name in ('images/1.png', 'images/1.jpg', 'images/b/1.png', 'more/1.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture().save(tmp_path / name)
    (tmp_path / 'images' / 'notes.txt').write_text('no image')
    save_video(tmp_path / 'images' / '1.mp4')
    assert run('images')[0] == 0
    assert files_in('outputs') == [
        '1.jpg', '1.json', '1_2.json', '1_2.mp4', '1_2_2.jpg', '1_2_2.json']
    for _ in range(2):  # the second time without the results of the first
        code, output, _ = run('images', 'more', 'images/1.png', '--recursive', '--out-dir',
                              'images/b/out')
        assert code == 0 and len(output.splitlines()) == 5
        assert files_in('images/b/out') == [
            '1.jpg', '1.json', '1_2.json', '1_2.mp4', '1_2_2.jpg', '1_2_2.json', '1_2_2_2.jpg',
            '1_2_2_2.json', 'b/1.jpg', 'b/1.json']


def test_results_never_replace_inputs(run, tmp_path):
    (tmp_path / 'outputs').mkdir()
    picture().save(tmp_path / 'a.png')
    picture().save(tmp_path / 'outputs' / 'b.png')
    before = (tmp_path / 'outputs' / 'b.png').read_bytes()
    code, _, errors = run('a.png', 'outputs/b.png')
    assert code == 2 and '--out-dir outputs holds inputs: results might replace them' in errors
    assert files_in('outputs') == ['b.png']
    assert (tmp_path / 'outputs' / 'b.png').read_bytes() == before


def test_bad_files_are_reported_and_the_others_done(run, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in ('a.jpg', 'z.png'):
        picture().save(folder / name, quality=95)
    picture(1, 3000).save(folder / 'flat.png')
    for kind in ('jpg', 'png'):
        content = (folder / ('a.jpg' if kind == 'jpg' else 'z.png')).read_bytes()
        (folder / f'cut.{kind}').write_bytes(content[:-100])
    (folder / 'empty.jpg').write_bytes(b'')
    (folder / 'text.jpg').write_text('no picture')
    (folder / 'empty.mp4').write_bytes(b'')
    save_video(folder / 'broken.avi', codec='MJPG', count=20)
    content = (folder / 'broken.avi').read_bytes()
    (folder / 'broken.avi').write_bytes(content[:len(content) // 3])
    code, output, errors = run(folder, 'gone.jpg')
    assert code == 1 and len(output.splitlines()) == 2 and 'Traceback' not in errors
    for name, message in {
            'flat.png': 'too thin', 'cut.jpg': 'truncated', 'cut.png': 'truncated',
            'empty.jpg': '(empty, or of a format', 'text.jpg': 'cannot be read as an image',
            'gone.jpg': 'no file, and no folder with images', 'empty.mp4': 'no video, or broken',
            'broken.avi': 'no video, or broken: '}.items():
        line, = (line for line in errors.splitlines() if name in line)
        assert line.startswith('error: ') and message in line
    assert errors.splitlines()[-1] == 'error: 8 could not be done'
    assert files_in('outputs') == ['a.jpg', 'a.json', 'z.jpg', 'z.json']


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_a_small_file_of_very_many_pixels(repo_root, tmp_path, unmeasured, backend):
    write_detector(tmp_path / 'a.onnx', resize=dict(
        scale=[200, 120], keep_ratio=True, backend=backend, interpolation='bilinear'))
    Image.new('1', (14000, 14000)).save(tmp_path / 'bomb.png')
    # OpenCV has been imported here, and takes no limit any more.
    command = [sys.executable, repo_root / 'tools' / 'onnx_detect.py', 'a.onnx', 'bomb.png']
    done = subprocess.run(command, cwd=tmp_path, env=unmeasured, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'error: bomb.png: cannot be read as an image (' in done.stderr


@pytest.mark.parametrize('arguments, message', [
    (['gone'], 'nothing to work on: gone: no file, and no folder'),
    (['empty'], 'empty: no file, and no folder with images or videos (--recursive enters'),
    (['a.png', '--out-dir', 'a.png'], '--out-dir a.png cannot be written (File exists'),
    (['a.png', '--annotations', 'x.json'], '--annotations x.json is no COCO file'),
    (['a.png', '--coco', '--annotations', 'a.png'], '--annotations a.png is no COCO file'),
    (['a.png', '--coco', '--annotations', 'few.json'], "(KeyError: 'other $x')"),
    (['a.png', '--score-thr', '30'], '--score-thr is a number from 0 to 1, not 30'),
    (['a.png', '--score-thr', 'nan'], '--score-thr is a number from 0 to 1, not nan'),
])
def test_mistakes(run, tmp_path, arguments, message):
    (tmp_path / 'empty').mkdir()
    picture().save(tmp_path / 'a.png')
    (tmp_path / 'few.json').write_text(json.dumps(dict(
        images=[], annotations=[], categories=[dict(id=1, name='bright')])))
    code, output, errors = run(*arguments)
    assert code == 2 and output == '' and errors.startswith('error: ') and message in errors
    assert not files_in('empty') and not (tmp_path / 'outputs').exists()


def test_wrong_models(run, tmp_path):
    picture().save(tmp_path / 'a.png')
    (tmp_path / 'b.onnx').write_bytes(b'no model')
    for model, message in (('gone.onnx', 'gone.onnx is no ONNX file'),
                           ('b.onnx', 'b.onnx is no ONNX file')):
        code, _, errors = run('a.png', model=model)
        assert code == 2 and message in errors and len(errors.splitlines()) == 1


def test_a_full_disk_stops_with_one_message(run, script, tmp_path, monkeypatch):
    picture().save(tmp_path / 'a.png')

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(script.os, 'replace', fail)
    code, _, errors = run('a.png')
    assert code == 2 and 'cannot be written (No space left on device)' in errors
    assert files_in('outputs') == []


def test_names_that_are_no_text(run, tmp_path):
    name = os.fsdecode(b'caf\xe9.png')
    picture().save(tmp_path / 'a.png')
    os.rename(tmp_path / 'a.png', tmp_path / name)
    code, output, _ = run(name)
    assert code == 0 and output.startswith('caf')
    result = json.loads((tmp_path / 'outputs' / os.fsdecode(b'caf\xe9.json')).read_text())
    assert result['image'] == name


@pytest.mark.parametrize('masks', [False, True])
def test_coco_results(run, tmp_path, masks):
    from pycocotools.coco import COCO
    write_detector(tmp_path / 'm.onnx', masks)
    (tmp_path / 'predictions').mkdir()
    for name in ('a.png', 'predictions/b.png', 'predictions.png'):
        picture().save(tmp_path / name)
    arguments = 'a.png', 'predictions', 'predictions.png', '--score-thr', '0.2', '--coco'
    assert run(*arguments, model='m.onnx')[0] == 0
    assert files_in('outputs') == ['a.jpg', 'b.jpg', 'predictions.jpg', 'predictions.json',
                                   'predictions_images.json']
    truth = COCO('outputs/predictions_images.json')
    assert [image['file_name'] for image in truth.dataset['images']] == [
        'a.png', 'predictions/b.png', 'predictions.png']
    found = truth.loadRes('outputs/predictions.json')
    assert len(found.anns) == 6 and {ann['image_id'] for ann in found.anns.values()} == {1, 2, 3}
    assert found.loadCats(found.anns[1]['category_id'])[0]['name'] == 'bright'
    x1, y1, x2, y2 = BOXES[1] * [80, 60, 80, 60]
    np.testing.assert_allclose(found.anns[1]['bbox'], [x1, y1, x2 - x1, y2 - y1], atol=2e-3)
    if masks:
        assert found.annToMask(found.anns[1]).shape == (60, 80)


def test_coco_results_with_the_numbers_of_annotations(run, tmp_path):
    from pycocotools.coco import COCO
    for name in ('images/x/a.png', 'images/b.png', 'images/c.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        picture().save(tmp_path / name)
    (tmp_path / 'truth.json').write_text(json.dumps(dict(
        images=[dict(id=7, file_name='x\\a.png'), dict(id=9, file_name='b.png')], annotations=[],
        categories=[dict(id=90, name='frame'), dict(id=3, name='other $x'),
                    dict(id=5, name='bright')])))
    code, output, errors = run('images', '--recursive', '--score-thr', 0, '--coco', '--annotations',
                               'truth.json', '--no-pictures')
    assert output.count('3 objects -> outputs/predictions.json') == 2
    assert code == 1 and 'c.png: truth.json has no such image, or it has been done' in errors
    assert files_in('outputs') == ['predictions.json']
    found = COCO('truth.json').loadRes('outputs/predictions.json')
    assert [(ann['image_id'], ann['category_id']) for ann in found.anns.values()] == [
        (number, category) for number in (9, 7) for category in (5, 3, 90)]


@pytest.mark.parametrize('annotated', [False, True])
def test_coco_results_are_those_of_infer(script, tmp_path, annotated):
    from mmcontainer import Detections
    from mmcontainer.cli import coco_results
    truth = tmp_path / 'truth.json'
    truth.write_text(json.dumps(dict(
        images=[dict(id=n, file_name=f'x/{n}.png') for n in range(5)],
        categories=[dict(id=50 - n, name=name) for n, name in enumerate(CLASSES)])))
    annotations = str(truth) if annotated else None
    found = [{'label': label, 'class': CLASSES[label], 'score': 0.5,
              'bbox': [1.5, 2.25, 9.125, 8.001]} for label in range(3)]
    found[1]['mask'] = dict(size=[60, 80], counts='00')
    same = Detections.from_dict(dict(image='a', height=60, width=80, detections=found))
    ours = script.CocoResults(CLASSES, annotations)
    theirs = coco_results.CocoResults(CLASSES, annotations)
    for number in (3, 1):
        ours.add(Path('x', f'{number}.png'), 60, 80, found)
        theirs.add({f'x/{number}.png': same})
    ours.write(tmp_path)
    files = theirs.files()
    assert len(files) == (1 if annotated else 2)
    for name, content in files.items():
        assert json.loads((tmp_path / name).read_text()) == content


def test_files_are_known_by_the_suffixes_of_infer(script):
    from mmcontainer.cli import images, videos
    assert script.IMAGES == images.SUFFIXES and script.VIDEOS == videos.SUFFIXES


@pytest.mark.parametrize('name, codec, size', [
    ('clip.mp4', 'mp4v', (48, 64)), ('clip.avi', 'MJPG', (46, 62)), ('clip.AVI', 'XVID', (48, 64))])
def test_a_video(run, tmp_path, name, codec, size):
    save_video(tmp_path / name, size=size, codec=codec)
    code, output, errors = run(name, '--score-thr', '0.05')
    assert (code, errors) == (0, '') and output == (
        f'{name}: {output.split()[1]} objects in 5 images -> outputs/clip.mp4\n')
    result = json.loads((tmp_path / 'outputs' / 'clip.json').read_text())
    assert list(result) == ['video', 'height', 'width', 'fps', 'frames']
    assert (result['height'], result['width']) == size
    assert result['fps'] == pytest.approx(10)
    assert [frame['frame'] for frame in result['frames']] == list(range(5))
    brightness = [next(found['score'] for found in frame['detections'] if found['label'] == 1)
                  for frame in result['frames']]
    np.testing.assert_allclose(brightness, (40 + 40 * np.arange(5)) / 255, atol=0.03)
    frames, rate = read_frames('outputs/clip.mp4')
    assert len(frames) == 5 and rate == pytest.approx(10)
    assert frames[0].shape == (*size, 3)


def test_a_video_with_an_odd_name_and_rate(run, script, tmp_path):
    save_video(tmp_path / 'plain.avi', codec='MJPG', rate=119.873)
    (tmp_path / 'plain.avi').rename(tmp_path / '12:30.avi')
    assert run('12:30.avi')[0] == 0
    frames, rate = read_frames('outputs/12:30.mp4')
    assert len(frames) == 5 and rate == pytest.approx(119.87, abs=0.01)


def test_formats_that_estimate_their_images(script, tmp_path, monkeypatch):
    """A recording of a screen, whose rate varies, is said to have several times its images."""
    save_video(tmp_path / 'clip.mkv')
    monkeypatch.setattr(script.cv2, 'CAP_PROP_FRAME_COUNT', script.cv2.CAP_PROP_FRAME_WIDTH)
    assert len(list(script.read_video(tmp_path / 'clip.mkv'))) == 5


def test_the_frames_of_a_video_as_coco_results(run, tmp_path):
    from pycocotools.coco import COCO
    save_video(tmp_path / 'clip.mp4')
    assert run('clip.mp4', '--coco', '--no-pictures')[0] == 0
    truth = COCO('outputs/predictions_images.json')
    assert [image['file_name'] for image in truth.dataset['images']] == [
        f'clip.mp4/{number:06d}' for number in range(5)]
    assert len(truth.loadRes('outputs/predictions.json').anns) >= 5
    assert files_in('outputs') == ['predictions.json', 'predictions_images.json']


def test_ctrl_c_leaves_nothing_half_written(run, script, tmp_path, monkeypatch):
    save_video(tmp_path / 'clip.mp4')
    picture().save(tmp_path / 'a.png')
    detect, calls = script.Detector.__call__, []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise SystemExit(130)  # which the signals become
        return detect(*arguments)

    monkeypatch.setattr(script.Detector, '__call__', interrupt)
    with pytest.raises(SystemExit):
        run('a.png', 'clip.mp4', '--coco')
    assert files_in('outputs') == ['a.jpg']


@pytest.mark.slow
@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(repo_root, tmp_path, number, code, unmeasured):
    write_detector(tmp_path / 'a.onnx')
    save_video(tmp_path / 'clip.avi', count=1000, size=(480, 640), codec='MJPG')
    process = subprocess.Popen(
        [sys.executable, repo_root / 'tools' / 'onnx_detect.py', 'a.onnx', 'clip.avi'],
        cwd=tmp_path, env=unmeasured, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob('outputs/.unfinished*')) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == code and 'Traceback' not in errors
    assert files_in(tmp_path / 'outputs') == []


@pytest.mark.slow
@pytest.mark.parametrize('library', ['opencv-python-headless', 'pillow'])
def test_an_environment_that_holds_nothing_else(repo_root, tmp_path, library):
    uv = shutil.which('uv', path=f'{repo_root}/.uv/bin{os.pathsep}{os.environ["PATH"]}')
    if uv is None:
        pytest.skip('needs uv: make env')
    versions = [f'{name}=={version(name)}' for name in ('numpy', 'onnxruntime', library)]
    python = tmp_path / 'venv' / 'bin' / 'python'
    subprocess.run([uv, 'venv', '-q', '-p', sys.executable, tmp_path / 'venv'], check=True)
    done = subprocess.run([uv, 'pip', 'install', '-q', '--offline', '-p', python, *versions],
                          capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f'needs packages in the cache of uv: {done.stderr.strip().splitlines()[0]}')
    (tmp_path / 'onnx_detect.py').write_bytes(
        (repo_root / 'tools' / 'onnx_detect.py').read_bytes())
    write_detector(tmp_path / 'a.onnx', masks=True)
    picture().save(tmp_path / 'a.png')
    save_video(tmp_path / 'clip.mp4')
    command = [python, '-I', 'onnx_detect.py', 'a.onnx', 'a.png', 'clip.mp4']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    has_videos = library != 'pillow'
    assert done.returncode == (0 if has_videos else 1), done.stderr
    assert ('clip.mp4: videos need OpenCV: pip install' in done.stderr) == (not has_videos)
    assert files_in(tmp_path / 'outputs') == ['a.jpg', 'a.json'] + (
        ['clip.json', 'clip.mp4'] if has_videos else [])
    code = "from onnx_detect import Detector; print(len(Detector('a.onnx')('a.png').boxes))"
    done = subprocess.run([python, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == '3\n', done.stderr
