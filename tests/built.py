"""The backbones of this package, and models of which only names, shapes and settings matter."""
from contextlib import contextmanager

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mmcontainer.backbones as backbones
from mmcontainer.backbones import BaseBackbone

CLASSES = [value for value in vars(backbones).values() if isinstance(value, type)
           and issubclass(value, BaseBackbone) and value is not BaseBackbone]
# ContainerLight only gives an arch of Container a name of its own.
ALL_ARCHS = [pytest.param(cls, arch, id=f'{cls.__name__}-{arch}') for cls in CLASSES
             if cls is not backbones.ContainerLight for arch in cls.arch_settings]

_SIZES = ('depths', 'embed_dims', 'widths', 'stem_width', 'mlp_ratios')


def _kinds():
    """One row of those that differ in numbers of blocks and channels only.

    What holds for every kind of stem, block and position embedding, and was computed for one row,
    need not be computed for its wider and deeper sisters.
    """
    kinds = {}
    for param in ALL_ARCHS:
        cls, arch = param.values
        row = {key: value for key, value in cls.arch_settings[arch].items() if key not in _SIZES}
        kinds.setdefault(f'{cls} {row}', param)
    return list(kinds.values())


KINDS = _kinds()


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


def decays_of(model, optim_wrapper):
    """Weight decay of the parameters that the optimizer has, {name: decay}."""
    groups = build_optim_wrapper(model, optim_wrapper).optimizer.param_groups
    decays = {id(value): group['weight_decay'] for group in groups for value in group['params']}
    return {name: decays[id(value)] for name, value in model.named_parameters()
            if id(value) in decays}


@contextmanager
def deterministic():
    """PyTorch refuses what has no deterministic gradient, where it knows that."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
