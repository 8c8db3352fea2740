"""ONNX files of small detectors: standard operators, any size, equal to PyTorch."""
import json

import pytest
import torch
from torch_versions import needs_export

pytestmark = [needs_export, pytest.mark.slow]
onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('mmcv._ext')
pytest.importorskip('mmdet')
from export_models import CONFIGS, noise, small_detector  # noqa: E402

from mmcontainer.export.comparison import compare, predict, run_file  # noqa: E402
from mmcontainer.export.graph import DetectorGraph  # noqa: E402
from mmcontainer.export.onnx_file import write_onnx  # noqa: E402


@pytest.mark.parametrize('kind', CONFIGS)
def test_one_file_finds_the_same_at_every_size(kind, tmp_path):
    torch.manual_seed(0)
    model = small_detector(kind)
    graph = DetectorGraph(model).eval()
    fixed = graph.needs_fixed_size
    path = str(tmp_path / 'detector.onnx')
    write_onnx(graph, path, (96, 128), dict(size=[96, 128] if fixed else None))
    file = onnx.load(path)
    onnx.checker.check_model(file)
    assert {node.domain for node in file.graph.node} == {''}
    assert {prop.key: json.loads(prop.value) for prop in file.metadata_props} == {
        'mmcontainer': dict(size=[96, 128] if fixed else None)}
    assert str(tmp_path.parents[2]).encode() not in file.SerializeToString()
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    assert [out.name for out in session.get_outputs()] == list(graph.output_names)
    image_shape = session.get_inputs()[0].shape
    assert image_shape == (['batch', 96, 128, 3] if fixed else ['batch', 'height', 'width', 3])
    sizes = ((2, 96, 128), (1, 96, 128)) if fixed else ((2, 100, 140), (1, 97, 75), (3, 128, 64))
    for batch, height, width in sizes:
        images = noise(batch, height, width)
        result = compare(predict(model, images, 0.), run_file(session, images), 0., 1000)
        assert result.is_equal and result.detections >= 20, result
