"""Small detectors of every kind that can be exported, ready to compare, and pictures for them.

Untrained heads find nothing, or the same everywhere. These get weights that spread scores and boxes
out, so that there is something to compare.
"""
import numpy as np
import torch
from mmengine.model import revert_sync_batchnorm

from benchmarks.small_detectors import CLASSES, CONFIGS, CONTAINER, COTNET, small_config
from mmcontainer.cli.configs import build_model

__all__ = ['CLASSES', 'CONFIGS', 'CONTAINER', 'COTNET', 'noise', 'small_config', 'small_detector']


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
