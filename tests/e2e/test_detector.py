"""``mmcontainer.Detector`` finds what the tools find, and MMDetection's DetInferencer does, too."""

import cv2
import numpy as np
import pytest
import torch
from infer_config import infer_args

from mmcontainer import Detector
from mmcontainer.cli.configs import build_model, load_config
from mmcontainer.cli.infer import infer

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module', params=['retinanet', 'mask_rcnn'])
def saved(request, tiny_config, tmp_path_factory):
    """Config and checkpoint of a detector with random weights."""
    folder = tmp_path_factory.mktemp('saved')
    few = "model['test_cfg']['rcnn']['max_per_img'] = 10" if request.param == 'mask_rcnn' else ''
    config = tiny_config(request.param, few)
    torch.manual_seed(0)
    model = build_model(load_config(str(config)).model, 'mmdet')
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'random.pth')
    return str(config), str(folder / 'random.pth')


def test_same_numbers_as_the_tool(saved, tiny_data, tmp_path, monkeypatch, capsys):
    """Which are those of tools/test.py (test_infer.py)."""
    config, checkpoint = saved
    monkeypatch.chdir(tmp_path)
    images = tiny_data / 'val2017'
    assert infer(infer_args(images, config=config, checkpoint=checkpoint, out_dir='found',
                            no_pictures=True)) == 0
    detector = Detector(config, checkpoint, device='cpu')
    found = detector(images, score_thr=0)
    files = sorted((tmp_path / 'found').glob('*.json'))
    assert len(found) == len(files) == 4 and all(len(one) >= 10 for one in found)
    for one, file in zip(found, files):
        assert file.read_text() == one.to_json()
    # The same image as an array, and from a config that was read before.
    first = found[0].to_dict()
    again = Detector(load_config(config), checkpoint, 'cpu')(cv2.imread(first['image']), 0)
    assert again.to_dict() == dict(first, image=None)
    # In a batch, which pads: the same objects.
    batch = detector(images, score_thr=0, batch_size=4)
    assert [len(one) for one in batch] == [len(one) for one in found]


def test_det_inferencer_works_with_our_configs(saved, tiny_data):
    """It finds the same, without deployment."""
    from mmdet.apis import DetInferencer
    config, checkpoint = saved
    image = str(sorted((tiny_data / 'val2017').iterdir())[0])
    theirs = DetInferencer(load_config(config), checkpoint, device='cpu', show_progress=False)(
        image, no_save_vis=True)['predictions'][0]
    ours = Detector(config, checkpoint, device='cpu', deploy=False)(image, score_thr=0)
    order = np.argsort(-np.array(theirs['scores']), kind='stable')
    assert len(ours) == len(order) >= 10
    for one, index in zip(ours, order):
        assert one.label == theirs['labels'][index]
        assert one.score == round(theirs['scores'][index], 6)
        assert one.bbox == [round(value, 3) for value in theirs['bboxes'][index]]
        if one.mask is not None:
            assert one.mask['counts'] == theirs['masks'][index]['counts']
