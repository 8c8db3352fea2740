"""tools/quantize.py as a user runs it, and the AP of a detector that was trained and exported."""
import json
import re
import sys

import pytest
from torch_versions import needs_export

pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
from toy_onnx import write_detector, write_pictures  # noqa: E402

from mmcontainer.cli.quantize import quantize  # noqa: E402
from mmcontainer.errors import UserError  # noqa: E402

TRAINED = """
_base_ = 'mmcontainer::retinanet/container_light_fpn_demo_shapes.py'
norm_cfg = dict(num_groups=8)
model = dict(
    backbone=dict(_delete_=True, type='Container', arch=dict(
        embed_dims=(16, 32, 32, 32), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2),
        patch_sizes=(4, 2, 2, 2), num_heads=(None, None, None, 2),
        static=dict(kind='depthwise', kernel_size=3))),
    neck=dict(in_channels=[16, 32, 32, 32], out_channels=32, norm_cfg=norm_cfg),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1, norm_cfg=norm_cfg))
optim_wrapper = dict(optimizer=dict(lr=4e-3))
train_cfg = dict(max_epochs=1, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', T_max=1, eta_min=1e-6, by_epoch=True, begin=0, end=1,
         convert_to_iter_based=True)]
"""


@pytest.fixture
def toy(tmp_path):
    """Arguments for a file that can be quantised: itself, --calibration and --annotations."""
    write_detector(tmp_path / 'toy.onnx')
    annotations = write_pictures(tmp_path / 'pictures')
    return [tmp_path / 'toy.onnx', '--calibration', tmp_path / 'pictures', '--annotations',
            annotations]


def files(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def test_a_file_that_keeps_its_ap_stays(toy, tmp_path, launch_tool, call_tool):
    output = launch_tool('quantize.py', *toy, '--num-images', 4)
    assert 'calibrated on 4 images' in output and 'times as fast' in output
    rows = re.findall(r'^(float32|int8) +([\d.]+) +(\d+) +([\d.]+)$', output, re.MULTILINE)
    assert [(row[0], row[3]) for row in rows] == [('float32', '1.000'), ('int8', '1.000')]
    assert files(tmp_path) == ['pictures', 'toy.onnx', 'toy_int8.onnx']
    info = onnxruntime.InferenceSession(str(tmp_path / 'toy_int8.onnx')).get_modelmeta()
    assert json.loads(info.custom_metadata_map['mmcontainer'])['quantization']['images'] == 4
    again = call_tool('quantize.py', tmp_path / 'toy_int8.onnx', *toy[1:])
    assert 'is quantised already' in again


def test_a_file_that_loses_ap_does_not_stay(toy, tmp_path, run_tool):
    write_detector(toy[0], range_of_other_channel=1000.)
    output = run_tool('quantize.py', *toy, '--output', tmp_path / 'q/int8.onnx', code=2)
    assert 'bbox AP' in output and 'is 0.0000 instead of 1.0000' in output
    assert 'Traceback' not in output and 'int8.onnx was not written' in output
    assert not list((tmp_path / 'q').iterdir())
    # Even a file that loses nothing, where the bound asks for a gain.
    write_detector(toy[0])
    output = run_tool('quantize.py', *toy, '--max-drop', -1, code=2)
    assert 'is 1.0000 instead of 1.0000' in output
    assert files(tmp_path) == ['pictures', 'q', 'toy.onnx']


def test_mistakes_are_messages(toy, tmp_path, call_tool):
    file, _, pictures, _, annotations = toy
    (tmp_path / 'text.onnx').write_text('no ONNX file')
    write_detector(tmp_path / 'other.onnx', format=None)
    (tmp_path / 'empty').mkdir()
    content = json.loads(annotations.read_text())
    others = tmp_path / 'others.json'
    others.write_text(json.dumps({**content, 'categories': [dict(id=3, name='wasp')]}))
    before = files(tmp_path)
    for changed, message in (
            ({0: tmp_path / 'none.onnx'}, 'there is no such file'),
            ({0: tmp_path / 'text.onnx'}, 'no ONNX file'),
            ({0: tmp_path / 'other.onnx'}, 'other.onnx is no detector of format 1'),
            ({2: tmp_path / 'empty'}, '6 of the 6 images'),
            ({4: tmp_path / 'none.json'}, 'none.json cannot be read'),
            ({4: file}, 'toy.onnx'),
            ({4: others}, "has no category 'ant'"),
            ({5: '--num-images', 6: 0}, '--num-images'),
            ({5: '--max-drop', 6: 1.5}, '--max-drop'),
            ({5: '--output', 6: file}, 'is the file to read'),
            ({5: '--output', 6: tmp_path / 'int8.bin'}, '.onnx')):
        arguments = {**dict(enumerate(toy)), **changed}
        output = call_tool('quantize.py', *arguments.values())
        assert message in output and 'Traceback' not in output, output
    assert files(tmp_path) == before


def test_a_detector_that_finds_nothing_cannot_be_judged(toy, tmp_path, call_tool):
    content = json.loads(toy[4].read_text())
    for entry in content['annotations']:
        entry['category_id'] = 8
    toy[4].write_text(json.dumps(content))
    output = call_tool('quantize.py', *toy)
    assert 'AP 0.0000' in output and 'no loss could be told' in output
    assert files(tmp_path) == ['pictures', 'toy.onnx']


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime'])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # not to be imported
    with pytest.raises(UserError, match=rf"'{package}'.*pip install \"mmcontainer\[quantize\]\""):
        quantize(None)


@needs_export
@pytest.mark.slow
def test_a_trained_detector_keeps_its_ap(tmp_path, run_tool):
    """Training, tools/test.py, export, AP of the file by onnxruntime, quantisation."""
    pytest.importorskip('mmcv._ext')
    pytest.importorskip('mmdet')
    from mmcontainer.demo import ShapesParams
    from mmcontainer.demo.generate import generate_shapes
    from mmcontainer.export.evaluation import average_precision, load_file, read_ground_truth
    data, file = tmp_path / 'shapes', tmp_path / 'detector.onnx'
    generate_shapes(data, ShapesParams(num_train=1000, num_val=60))
    config = tmp_path / 'config.py'
    config.write_text(TRAINED)
    run_tool('train.py', config, '--data-root', data, '--work-dir', tmp_path / 'work',
             timeout=900)
    checkpoint = tmp_path / 'work/epoch_1.pth'
    output = run_tool('test.py', config, checkpoint, '--data-root', data, '--work-dir',
                      tmp_path / 'work')
    expected = float(re.findall(r'coco/bbox +(\d\.\d+)', output)[-1])
    run_tool('export_onnx.py', config, checkpoint, file, '--check-images', data / 'val')
    annotations = data / 'annotations/instances_val.json'
    detector = load_file(file)
    truth = read_ground_truth(annotations, data / 'val', detector.classes)
    found = average_precision(detector, truth)['bbox']
    assert found > 0.04 and found == pytest.approx(expected, abs=1e-3)
    output = run_tool('quantize.py', file, '--calibration', data / 'val', '--annotations',
                      annotations)
    assert f'{found:.3f}' in output
    sizes = [path.stat().st_size for path in (file, tmp_path / 'detector_int8.onnx')]
    assert sizes[1] < 0.7 * sizes[0]
    quantised = average_precision(load_file(tmp_path / 'detector_int8.onnx'), truth)['bbox']
    assert found - quantised <= 0.01
