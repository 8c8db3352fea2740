"""Configs that are parsed once, and models of which only names, shapes and settings matter."""
import copy
import functools

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope


@functools.cache
def _parse(path):
    return Config.fromfile(path)


def read_config(path):
    """Return a config as ``Config.fromfile`` does; it takes half a second, so once per session.

    Args:
        path (str | Path): The file.

    Returns:
        Config: A copy, so that a test may change it.
    """
    return copy.deepcopy(_parse(str(path)))


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
