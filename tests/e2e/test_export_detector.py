"""tools/export_onnx.py on whole detectors, as a user runs it, then tools/onnx_detect.py."""
import hashlib
import json
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch
from pycocotools.mask import iou
from torch_versions import needs_export

pytestmark = needs_export
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('mmcv._ext')
pytest.importorskip('mmdet')
from export_models import (  # noqa: E402
    CLASSES,
    OpenVinoSession,
    check_all_sizes,
    check_operators,
    noise,
    small_config,
    small_detector,
)

NAMES = ['ant', 'bee', 'cat', 'dog'][:CLASSES]


def write_detector(folder, kind):
    """Config and checkpoint of a small detector, whose images are a few hundred pixels wide."""
    cfg = small_config(kind)
    for step in cfg.test_dataloader.dataset.pipeline:
        if step['type'] == 'Resize':
            step['scale'] = (200, 120)
    cfg.test_dataloader.dataset.data_root = str(folder / 'no_data')
    cfg.dump(str(folder / 'config.py'))
    torch.save(dict(state_dict=small_detector(kind).state_dict(),
                    meta=dict(dataset_meta=dict(classes=NAMES))), folder / 'weights.pth')
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


def check_programs(folder, onnx_file, score_thr, options, run_tool):
    """tools/onnx_detect.py finds in a file what tools/infer.py finds with PyTorch."""
    (folder / 'images').mkdir()
    for number, size in enumerate(((240, 320), (333, 200), (90, 140))):
        cv2.imwrite(str(folder / f'images/{number}.png'), noise(1, *size)[0, ..., ::-1])
    common = (folder / 'images', '--coco', '--no-pictures', '--score-thr', score_thr, '--out-dir')
    run_tool('infer.py', '--config', folder / 'config.py', '--checkpoint', folder / 'weights.pth',
             *common, folder / 'torch', '--cfg-options', *options)
    run_tool('onnx_detect.py', onnx_file, *common, folder / 'onnx')
    expected, found = read_results(folder / 'torch'), read_results(folder / 'onnx')
    assert sum(map(len, expected.values())) >= 20
    for some, others in ((expected, found), (found, expected)):
        for key, ones in some.items():
            for one in ones:
                if one['score'] > score_thr + 1e-4:  # others may lie on either side of it
                    assert has_counterpart(one, others.get(key, ())), one


def read(path):
    """Session of onnxruntime and what the file says about itself."""
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return session, json.loads(session.get_modelmeta().custom_metadata_map['mmcontainer'])


@pytest.mark.slow
def test_a_detector_is_exported_and_checked(tmp_path, run_tool):
    config, weights = write_detector(tmp_path, 'mask_rcnn')
    out = tmp_path / 'm/detector.onnx'
    output = run_tool('export_onnx.py', config, weights, out, '--score-thr', 0.02,
                      '--max-per-img', 30)
    assert '3 sizes' in output and '0 without a counterpart' in output
    assert sorted(path.name for path in out.parent.iterdir()) == ['detector.onnx']
    session, info = read(out)
    versions = info.pop('versions')
    assert versions['torch'] == torch.__version__ and 'mmcontainer' in versions
    assert info == dict(
        format=1, task='instance-segmentation', classes=NAMES,
        resize=dict(scale=[200, 120], keep_ratio=True, backend='cv2', interpolation='bilinear'),
        size=None, batch=None, score_thr=0.02, max_per_img=30, mask_thr=0.5, config='config',
        weights=hashlib.sha256(weights.read_bytes()).hexdigest())
    dets, labels, *masks = session.run(None, {'images': noise(2, 70, 110)})
    assert dets.shape == (2, 30, 5) and labels.shape == (2, 30)
    assert (labels < CLASSES).all() and ((dets[..., 4] > 0.02) == (labels >= 0)).all()
    assert [mask.shape for mask in masks] == [(2, 30, 28, 28)]
    check_operators(str(out))
    model = small_detector('mask_rcnn')
    model.roi_head.test_cfg.update(score_thr=0.02, max_per_img=30)
    check_all_sizes(model, session, 0.02, 30)
    if find_spec('openvino') is not None:
        import openvino
        check_all_sizes(model, OpenVinoSession(openvino, str(out)), 0.02, 30)
    check_programs(tmp_path, out, 0.03, [
        'model.test_cfg.rcnn.score_thr=0.02', 'model.test_cfg.rcnn.max_per_img=30'], run_tool)


@pytest.mark.slow
def test_candidates_and_one_size(tmp_path, launch_tool):
    config, weights = write_detector(tmp_path, 'retinanet')
    launch_tool('export_onnx.py', config, weights, tmp_path / 'raw.onnx', '--no-nms',
                '--fixed-size', 96, 128)
    session, info = read(tmp_path / 'raw.onnx')
    assert info['size'] == [96, 128]
    assert session.get_inputs()[0].shape == ['batch', 96, 128, 3]
    assert [output.name for output in session.get_outputs()] == ['boxes', 'scores']


def test_a_check_without_detections_leaves_no_file(tmp_path, call_tool):
    config, weights = write_detector(tmp_path, 'detr')
    output = call_tool('export_onnx.py', config, weights, tmp_path / 'd.onnx', '--score-thr', 0.999)
    assert 'Only 0 objects were found' in output and '--check-images' in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ['config.py', 'weights.pth']


def test_mistakes_are_messages(tmp_path, call_tool):
    config, weights = write_detector(tmp_path, 'detr')
    out = tmp_path / 'd.onnx'
    for arguments, message in (
            ((config, weights, out, '--no-nms'), 'no suppression'),
            ((config, weights, out, '--score-thr', 2), '--score-thr'),
            ((config, weights, out, '--max-per-img', 0), '--max-per-img'),
            ((config, weights, out, '--max-per-img', 31), '30 queries'),
            ((config, weights, out, '--check-images', tmp_path / 'none'), 'no such file'),
            (('configs/imagenet/container_light_8xb128_in1k.py', weights, out), '--backbone-only'),
            (('configs/retinanet/r50_fpn_1x_coco.py', weights, out), 'does not belong')):
        output = call_tool('export_onnx.py', *arguments)
        assert message in output and 'Traceback' not in output, output
    assert sorted(path.name for path in tmp_path.iterdir()) == ['config.py', 'weights.pth']
