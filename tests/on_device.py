"""Shared by tests/gpu: backbones to compare, and how a device may round."""
from contextlib import contextmanager

import torch
from built import ALL_ARCHS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_versions import HAS_CPU_FLOAT16

from benchmarks.harness import PRECISIONS, precision

ARCHS = [case.values for case in ALL_ARCHS]
# The first arch of every class.
DEFAULTS = [(cls, next(iter(cls.arch_settings))) for cls in dict.fromkeys(cls for cls, _ in ARCHS)]


def name_of(value):
    """Id of a parameter of a test."""
    return getattr(value, '__name__', str(value))


def build(cls, arch, tiny, **kwargs):
    """A backbone in evaluation mode whose branches and norms all have an effect.

    Args:
        cls (type): Of ``ARCHS``.
        arch (str): Row of its table.
        tiny (bool): At most one block per stage.
    """
    torch.manual_seed(0)
    row = cls.arch_settings[arch]
    model = cls({**row, 'depths': tuple(min(depth, 1) for depth in row['depths'])}
                if tiny else arch, **kwargs).eval()
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, 0., 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.)
            # At the end of the branches of CoTNet: larger ones add up beyond the reach of float16.
            least = 0.1 if name.endswith('.bn3') else 0.5
            nn.init.uniform_(module.weight, least, 2 * least)
    return model


def precisions(device):
    """Those of ``PRECISIONS`` that a device has; on a CPU, TF32 is float32."""
    missing = {'tf32'} if HAS_CPU_FLOAT16 else {'tf32', 'float16'}
    return [name for name in PRECISIONS if device.type == 'cuda' or name not in missing]


@contextmanager
def computing(name, device):
    """Context of one of ``PRECISIONS`` on a device: with or without TF32, autocast or not."""
    with precision(name) as dtype:
        is_half = dtype != torch.float32
        with torch.autocast(device.type, dtype if is_half else torch.bfloat16, enabled=is_half):
            yield


def relative_errors(found, expected):
    """Root mean square of the difference of tensors, over that of what is expected, in float64."""
    errors = []
    for one, other in zip(found, expected):
        one, other = one.detach().double().cpu(), other.detach().double().cpu()
        assert one.shape == other.shape
        errors.append(((one - other).square().mean() / other.square().mean()).sqrt().item())
    return errors


__all__ = ['ARCHS', 'DEFAULTS', 'build', 'computing', 'name_of', 'precision', 'precisions',
           'relative_errors']
