"""What a part of a layer has to be for another form of the layer to read its parameters.

Users replace parts, by adapters for example, and hook them. Such a part has to be called.
"""
from typing import Optional

from torch import nn

_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')


def is_hooked(module: nn.Module) -> bool:
    """Tell whether a module or a part of it has hooks, which expect that it is called."""
    return any(getattr(part, hooks) for part in module.modules() for hooks in _HOOKS)


def is_pointwise(conv: nn.Module) -> bool:
    """Tell whether a convolution mixes channels alone: 1x1, stride 1, one group."""
    return conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1


def activation_name(act: Optional[nn.Module]) -> Optional[str]:
    """'gelu' (exact) or 'relu' for such a module, None for any other."""
    if type(act) is nn.GELU and act.approximate == 'none':
        return 'gelu'
    return 'relu' if type(act) is nn.ReLU else None
