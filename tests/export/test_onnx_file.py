"""ONNX files of small detectors: standard operators, any size, equal to PyTorch."""
import json

import pytest
from torch_versions import needs_export

pytestmark = [needs_export, pytest.mark.slow]
pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('mmcv._ext')
pytest.importorskip('mmdet')
from export_models import (  # noqa: E402
    OpenVinoSession,
    check_all_sizes,
    check_operators,
    small_detector,
)

from mmcontainer.export.graph import DetectorGraph, write_detector  # noqa: E402

# One of each module that post-processes; all kinds are compared in test_graph.py. SMCA-DETR has
# DETR's, and a Gaussian. The tool exports Mask R-CNN and the other backbones in tests/e2e/.
KINDS = ('retinanet', 'smca', 'multi_scale_smca', 'deformable_detr')


@pytest.fixture(scope='module', params=KINDS)
def exported(request, tmp_path_factory):
    """A detector, and the path of its ONNX file."""
    model = small_detector(request.param)
    path = str(tmp_path_factory.mktemp(request.param) / 'detector.onnx')
    write_detector(DetectorGraph(model).eval(), path, dict(size=None))
    return model, path


def test_operators_are_standard_and_sizes_open(exported):
    file = check_operators(exported[1])
    assert {prop.key: json.loads(prop.value) for prop in file.metadata_props} == {
        'mmcontainer': dict(size=None)}
    assert [out.name for out in file.graph.output] == ['dets', 'labels']


def test_one_file_finds_the_same_at_every_size(exported):
    model, path = exported
    check_all_sizes(model, onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider']))


def test_openvino_finds_the_same(exported):
    openvino = pytest.importorskip(
        'openvino', reason='OpenVINO is not installed: pip install "mmcontainer[openvino]"')
    model, path = exported
    check_all_sizes(model, OpenVinoSession(openvino, path))
