"""ONNX files of small detectors: standard operators, any size, equal to PyTorch."""
import json

import pytest
from torch_versions import needs_export

pytestmark = [needs_export, pytest.mark.slow]
onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('mmcv._ext')
pytest.importorskip('mmdet')
from export_models import CONTAINER, COTNET, noise, small_detector  # noqa: E402

from mmcontainer.export.comparison import compare, predict, run_file  # noqa: E402
from mmcontainer.export.graph import DetectorGraph, write_detector  # noqa: E402

# One of each module that post-processes; all kinds are compared in test_graph.py. SMCA-DETR has
# DETR's, and a Gaussian.
KINDS = ('retinanet', 'smca', 'multi_scale_smca', 'mask_rcnn', 'deformable_detr')
# (batch, height, width); of the smallest, the upper levels of a pyramid have one cell.
IMAGES = ((2, 100, 140), (1, 97, 75), (3, 128, 64), (1, 64, 64), (2, 200, 333))


@pytest.fixture(scope='module', params=KINDS)
def exported(request, tmp_path_factory):
    """Kind, detector and path of its ONNX file."""
    # CoAtNet's file is of the backbone alone, in tests/e2e/.
    model = small_detector(request.param, COTNET if request.param == 'retinanet' else CONTAINER)
    path = str(tmp_path_factory.mktemp(request.param) / 'detector.onnx')
    write_detector(DetectorGraph(model).eval(), path, dict(size=None))
    return request.param, model, path


def test_operators_are_standard_and_sizes_open(exported):
    kind, _, path = exported
    file = onnx.load(path)
    onnx.checker.check_model(file)
    assert {node.domain for node in file.graph.node} == {''}
    assert {prop.key: json.loads(prop.value) for prop in file.metadata_props} == {
        'mmcontainer': dict(size=None)}
    # Nodes carry no traces of the machine that the file was made on.
    assert not any(node.metadata_props or node.doc_string for node in file.graph.node)
    assert [out.name for out in file.graph.output] == (
        ['dets', 'labels'] + ['masks'] * ('mask' in kind))
    sides = file.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in sides] == ['batch', 'height', 'width', 3]


def test_one_file_finds_the_same_at_every_size(exported):
    _, model, path = exported
    check_all_sizes(model, onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider']))


def check_all_sizes(model, session):
    """Compare a session of a file with the detector."""
    for batch, height, width in IMAGES:
        images = noise(batch, height, width)
        result = compare(predict(model, images, 0.), run_file(session, images), 0., 1000)
        assert result.is_equal and result.detections >= 20, (height, width, result)


class OpenVinoSession:
    """A file in OpenVINO, called as onnxruntime is; docs/deploy.md has the same few lines."""

    def __init__(self, openvino, path):
        # Without the hint CPUs with bfloat16 units compute in that: scores then differ by 1e-3.
        self.model = openvino.compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})

    def run(self, names, feed):
        found = self.model(feed)
        return [found[name] for name in names or [out.any_name for out in self.model.outputs]]


def test_openvino_finds_the_same(exported):
    openvino = pytest.importorskip(
        'openvino', reason='OpenVINO is not installed: pip install "mmcontainer[openvino]"')
    _, model, path = exported
    check_all_sizes(model, OpenVinoSession(openvino, path))
