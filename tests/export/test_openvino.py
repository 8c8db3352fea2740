"""OpenVINO reads the files, and finds the same; docs/deploy.md has the same few lines."""
import pytest
from torch_versions import needs_export

pytestmark = [needs_export, pytest.mark.slow]
openvino = pytest.importorskip(
    'openvino', reason='OpenVINO is not installed: pip install "mmcontainer[openvino]"')
pytest.importorskip('onnxscript')
pytest.importorskip('mmcv._ext')
pytest.importorskip('mmdet')
from export_models import CONFIGS, noise, small_detector  # noqa: E402

from mmcontainer.export.comparison import compare, predict, run_file  # noqa: E402
from mmcontainer.export.graph import DetectorGraph  # noqa: E402
from mmcontainer.export.onnx_file import write_onnx  # noqa: E402


class Session:
    """A file in OpenVINO, called as onnxruntime is."""

    def __init__(self, path):
        # Without the hint CPUs with bfloat16 units compute in that: scores then differ by 1e-3.
        self.model = openvino.compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})

    def run(self, names, feed):
        found = self.model(feed)
        return [found[name] for name in names or [out.any_name for out in self.model.outputs]]


@pytest.mark.parametrize('kind', CONFIGS)
def test_openvino_finds_what_pytorch_finds(kind, tmp_path):
    model = small_detector(kind)
    path = str(tmp_path / 'detector.onnx')
    write_onnx(DetectorGraph(model).eval(), path, dict(size=None))
    session = Session(path)
    for batch, height, width in ((2, 100, 140), (1, 97, 75), (3, 128, 64)):
        images = noise(batch, height, width)
        result = compare(predict(model, images, 0.), run_file(session, images), 0., 1000)
        assert result.is_equal and result.detections >= 20, result
