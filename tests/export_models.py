"""Small detectors of every kind that can be exported, ready to compare, and pictures for them.

Untrained heads find nothing, or the same everywhere. These get weights that spread scores and boxes
out, so that there is something to compare.
"""
import numpy as np
import torch
from mmengine.model import revert_sync_batchnorm

from benchmarks.small_detectors import CLASSES, CONFIGS, CONTAINER, COTNET, small_config
from mmcontainer.cli.configs import build_model
from mmcontainer.export.comparison import compare, predict, run_file

__all__ = ['CLASSES', 'CONFIGS', 'CONTAINER', 'COTNET', 'OpenVinoSession', 'check_all_sizes',
           'check_operators', 'noise', 'small_config', 'small_detector']
# (batch, height, width); of the smallest, the upper levels of a pyramid have one cell.
IMAGES = ((2, 100, 140), (1, 97, 75), (3, 128, 64), (1, 64, 64), (2, 200, 333))


def spread(model):
    """Give everything but the backbone weights of which scores and boxes differ."""
    for name, weight in model.named_parameters():
        if not name.startswith('backbone') and weight.dim() > 1:
            weight.data.normal_(0, 0.7 / weight[0].numel()**0.5)
    return model


def small_detector(kind, backbone=CONTAINER):
    """A detector of :func:`small_config` in evaluation mode, with :func:`spread` weights."""
    torch.manual_seed(0)
    model = build_model(small_config(kind, backbone).model, 'mmdet')
    return spread(revert_sync_batchnorm(model)).eval()


def noise(batch, height, width):
    """Pictures (B, H, W, 3) of bright rectangles on noise, uint8."""
    generator = np.random.default_rng(height)
    images = generator.integers(0, 120, size=(batch, height, width, 3), dtype=np.uint8)
    for image in images:
        for _ in range(3):
            y, x = generator.integers(0, (height - 20, width - 20))
            image[y:y + 40, x:x + 30] = generator.integers(120, 256, size=3)
    return images


def check_operators(path):
    """Load an ONNX file: standard operators, any size, and no traces of where it was made."""
    import onnx
    file = onnx.load(path)
    onnx.checker.check_model(file)
    assert {node.domain for node in file.graph.node} == {''}
    assert not any(node.metadata_props or node.doc_string for node in file.graph.node)
    sides = file.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in sides] == ['batch', 'height', 'width', 3]
    return file


def check_all_sizes(model, session, score_thr=0., number=1000):
    """Compare a session of a file with the detector; it has these two settings."""
    for batch, height, width in IMAGES:
        images = noise(batch, height, width)
        result = compare(predict(model, images, score_thr), run_file(session, images), score_thr,
                         number)
        assert result.is_equal and result.detections >= 20, (height, width, result)


class OpenVinoSession:
    """A file in OpenVINO, called as onnxruntime is; docs/deploy.md has the same few lines."""

    def __init__(self, openvino, path):
        # Without the hint CPUs with bfloat16 units compute in that: scores then differ by 1e-3.
        self.model = openvino.compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})

    def run(self, names, feed):
        found = self.model(feed)
        return [found[name] for name in names or [out.any_name for out in self.model.outputs]]
