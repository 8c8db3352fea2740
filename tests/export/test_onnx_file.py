"""ONNX files of small detectors: standard operators, any size, equal to PyTorch."""
import json

import pytest
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
    model = small_detector(kind)
    graph = DetectorGraph(model).eval()
    path = str(tmp_path / 'detector.onnx')
    write_onnx(graph, path, (96, 128), dict(size=None))
    file = onnx.load(path)
    onnx.checker.check_model(file)
    assert {node.domain for node in file.graph.node} == {''}
    assert {prop.key: json.loads(prop.value) for prop in file.metadata_props} == {
        'mmcontainer': dict(size=None)}
    # Nodes carry no traces of the machine that the file was made on.
    assert not any(node.metadata_props or node.doc_string for node in file.graph.node)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    assert [out.name for out in session.get_outputs()] == list(graph.output_names)
    assert session.get_inputs()[0].shape == ['batch', 'height', 'width', 3]
    for batch, height, width in ((2, 100, 140), (1, 97, 75), (3, 128, 64)):
        images = noise(batch, height, width)
        result = compare(predict(model, images, 0.), run_file(session, images), 0., 1000)
        assert result.is_equal and result.detections >= 20, result
