"""tools/infer.py finds in an image file what tools/test.py finds in it."""
import json
import pickle
import shutil
from argparse import Namespace

import cv2
import numpy as np
import pytest
import torch
from infer_config import infer_args
from PIL import Image

from mmcontainer.cli.configs import load_config
from mmcontainer.cli.infer import infer
from mmcontainer.cli.videos import Video

pytestmark = pytest.mark.slow

# Drawing a hundred labelled boxes takes a second.
FEW = {'retinanet': "model['test_cfg']['max_per_img'] = 10",
       'mask_rcnn': "model['test_cfg']['rcnn']['max_per_img'] = 10"}
GREY = """
model['backbone']['in_channels'] = 1
model['data_preprocessor'] = dict(mean=[120.], std=[60.], bgr_to_rgb=False)
test_pipeline[0]['color_type'] = 'grayscale'
"""
PILLOW = """
test_pipeline[0]['imdecode_backend'] = 'pillow'
"""
AS_STORED = """
test_pipeline[0]['color_type'] = 'color_ignore_orientation'
"""


@pytest.fixture(scope='module')
def turned_data(tiny_data, tmp_path_factory):
    """The tiny data set, in which EXIF says of two images that they are to be turned."""
    root = tmp_path_factory.mktemp('turned') / 'data'
    shutil.copytree(tiny_data, root)
    for name, orientation in (('001.jpg', 6), ('002.jpg', 3)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(root / 'val2017' / name) as image:
            image.copy().save(root / 'val2017' / name, exif=exif, quality=95)
    return root


def state_sizes(root, upright):
    """Write into the annotations what size the turned 001.jpg has as the pipeline loads it."""
    path = root / 'annotations' / 'instances_val2017.json'
    content = json.loads(path.read_text())
    image = next(image for image in content['images'] if image['file_name'] == '001.jpg')
    with Image.open(root / 'val2017' / '001.jpg') as stored:
        width, height = stored.size[::-1] if upright else stored.size
    image.update(width=width, height=height)
    path.write_text(json.dumps(content))


def save_random(config, path):
    """Save a detector with random weights, which finds something everywhere."""
    from mmengine.registry import MODELS, init_default_scope
    cfg = load_config(str(config))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)


@pytest.mark.parametrize('detector, extra', [
    ('retinanet', ''), ('mask_rcnn', ''), ('retinanet', GREY), ('retinanet', PILLOW),
    ('retinanet', AS_STORED)
], ids=['plain', 'masks', 'grey', 'pillow', 'as-stored'])
def test_infer_finds_what_test_finds(tiny_config, turned_data, tmp_path, monkeypatch, capsys,
                                     detector, extra):
    from mmcontainer.cli.evaluate import evaluate
    monkeypatch.chdir(tmp_path)
    state_sizes(turned_data, upright=extra != AS_STORED)
    config = str(tiny_config(detector, extra + FEW[detector]))
    save_random(config, 'random.pth')
    common = dict(config=config, checkpoint='random.pth', cfg_options=None, amp=None, compile=False,
                  no_deploy=False)
    evaluate(Namespace(**common, work_dir='work', data_root=str(turned_data), launcher='none',
                   verbose=False, out='out.pkl', show_dir='drawn'))
    capsys.readouterr()
    assert infer(infer_args(turned_data / 'val2017', **common, out_dir='found')) == 0
    # The classes are the config's, and the annotations of its data set are not there.
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(' of random.pth; 2 classes, named by the config; on cpu')
    assert len(lines) == 5
    tested = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert len(tested) == len(list((tmp_path / 'found').glob('*.json'))) == 4
    for entry in tested:
        stem = entry['img_path'].rpartition('/')[2][:-4]
        result = json.loads((tmp_path / 'found' / f'{stem}.json').read_text())
        expected = entry['pred_instances']
        order = expected['scores'].argsort(descending=True, stable=True).tolist()
        assert [result['height'], result['width']] == list(entry['ori_shape'])
        assert len(result['detections']) == len(order) >= 10
        for detection, index in zip(result['detections'], order):
            assert detection['score'] == round(expected['scores'][index].item(), 6)
            assert detection['bbox'] == [round(x, 3) for x in expected['bboxes'][index].tolist()]
            assert detection['label'] == expected['labels'][index].item()
            if detector == 'mask_rcnn':
                assert detection['mask']['counts'] == expected['masks'][index]['counts'].decode()


def test_a_video_is_done_as_its_images(tiny_config, tmp_path, monkeypatch):
    """A real detector finds the same in the images of a video and in lossless files of them."""
    monkeypatch.chdir(tmp_path)
    config = str(tiny_config('retinanet', ''))
    save_random(config, 'random.pth')
    video = cv2.VideoWriter('clip.avi', cv2.VideoWriter_fourcc(*'MJPG'), 5, (96, 64))
    generator = np.random.default_rng(0)
    for _ in range(3):
        video.write(cv2.resize(generator.integers(0, 255, (8, 12, 3), np.uint8), (96, 64)))
    video.release()
    for number, image in enumerate(Video('clip.avi')):
        cv2.imwrite(f'{number}.png', image)
    assert infer(infer_args('clip.avi', '0.png', '1.png', '2.png', config=config,
                            checkpoint='random.pth', out_dir='found', no_pictures=True)) == 0
    frames = json.loads((tmp_path / 'found' / 'clip.json').read_text())['frames']
    assert len(frames) == 3
    for frame in frames:
        single = json.loads((tmp_path / 'found' / f'{frame["frame"]}.json').read_text())
        assert frame['detections'] == single['detections'] != []
