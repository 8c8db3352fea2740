"""Models of which only names, shapes and settings matter."""
import torch
from mmengine.registry import MODELS, init_default_scope


def build_empty(cfg):
    """Build the model of a config without memory for its weights, and without computing them.

    Every constructor runs as ever; only numbers cannot be read, and no map can be computed.

    Args:
        cfg (Config): With ``model`` and ``default_scope``.

    Returns:
        nn.Module: On PyTorch's device 'meta'.
    """
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)
