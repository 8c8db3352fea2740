"""tools/onnx_detect.py finds with an exported detector what tools/infer.py finds with PyTorch."""
import json

import numpy as np
import pytest
import torch
from pycocotools.mask import iou
from torch_versions import needs_export

pytestmark = [needs_export, pytest.mark.slow]
pytest.importorskip('onnxruntime')
pytest.importorskip('mmcv._ext')
pytest.importorskip('mmdet')
from export_models import small_config, small_detector  # noqa: E402

CLASSES = ('person', 'car', 'chair', 'book')  # of COCO
SCORE_THR = 0.06


def write_detector(folder, kind):
    """Config and checkpoint of a small detector that finds something everywhere."""
    cfg = small_config(kind)
    for step in cfg.test_dataloader.dataset.pipeline:
        if step['type'] == 'Resize':
            step['scale'] = (400, 240)
    cfg.dump(str(folder / 'config.py'))
    torch.save(dict(state_dict=small_detector(kind).state_dict(),
                    meta=dict(dataset_meta=dict(classes=CLASSES))), folder / 'weights.pth')
    return folder / 'config.py', folder / 'weights.pth'


def read_results(folder):
    """{(image, category): [result]} of COCO results."""
    results = {}
    for one in json.loads((folder / 'predictions.json').read_text()):
        results.setdefault((one['image_id'], one['category_id']), []).append(one)
    return results


def has_counterpart(one, others):
    """Whether a result is among others: boxes within 0.05 pixels, scores within 1e-4."""
    return any(
        np.allclose(one['bbox'], other['bbox'], rtol=0, atol=0.05)
        and abs(one['score'] - other['score']) <= 1e-4
        and ('segmentation' not in one or one['segmentation'] == other['segmentation'] or iou(
            [one['segmentation']], [other['segmentation']], [0])[0, 0] > 0.99)
        for other in others)


@pytest.mark.parametrize('kind', ['retinanet', 'mask_rcnn', 'detr', 'smca'])
def test_same_objects_as_infer(kind, real_data, tmp_path, run_tool):
    config, weights = write_detector(tmp_path, kind)
    images = sorted((real_data / 'coco128/val2017').iterdir())[:8]
    annotations = real_data / 'coco128/annotations/instances_val2017.json'
    run_tool('export_onnx.py', config, weights, tmp_path / 'detector.onnx', '--check-images',
             *images)
    common = ('--coco', '--annotations', annotations, '--no-pictures', '--score-thr', SCORE_THR)
    run_tool('infer.py', *images, '--config', config, '--checkpoint', weights, *common,
             '--out-dir', tmp_path / 'torch')
    run_tool('onnx_detect.py', tmp_path / 'detector.onnx', *images, *common,
             '--out-dir', tmp_path / 'onnx')
    expected, found = read_results(tmp_path / 'torch'), read_results(tmp_path / 'onnx')
    assert sum(map(len, expected.values())) >= 20 and len({key[0] for key in expected}) > 4
    assert any('segmentation' in one for ones in found.values() for one in ones) == (
        kind == 'mask_rcnn')
    for some, others in ((expected, found), (found, expected)):
        for key, ones in some.items():
            for one in ones:
                if one['score'] > SCORE_THR + 1e-4:  # others may lie on either side of it
                    assert has_counterpart(one, others.get(key, ())), (kind, one)
