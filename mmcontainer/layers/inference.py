"""What layers do otherwise in evaluation without gradients: work in place, fuse what follows."""
from typing import Optional

import torch
from torch import Tensor, nn

from ..ops import pointwise_conv, pointwise_conv_nchw
from ..ops.capture import is_captured


def may_overwrite(module: nn.Module) -> bool:
    """Whether maps that a module made itself may be overwritten: in evaluation, without gradients.

    Not where anybody watches: who hooked a part of the module wants to see it called, with whole
    maps, and what it was given shall stay as it was.
    """
    return not (module.training or torch.is_grad_enabled() or is_captured()
                or any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()))


def infer_pointwise(conv: nn.Module,
                    x: Tensor,
                    act: Optional[nn.Module] = None,
                    out: Optional[Tensor] = None) -> Tensor:
    """``act(conv(x))`` or ``act(out + conv(x))``: :func:`mmcontainer.ops.pointwise_conv`.

    What is no plain 1x1 convolution, GELU or ReLU (an adapter, a quantised one) is called. ``out``
    is overwritten.
    """
    name = _operator_of(act)
    if _is_plain_pointwise(conv):
        y = pointwise_conv(x, conv.weight, conv.bias, name, out)
        return y if name or act is None else act(y)
    y = conv(x) if out is None else out.add_(conv(x))
    return y if act is None else act(y)


def infer_pointwise_nchw(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)``, contiguous (B, C_out, H, W) whatever the format of x."""
    if _is_plain_pointwise(conv):
        return pointwise_conv_nchw(x, conv.weight, conv.bias)
    return conv(x).contiguous()


def _operator_of(act: Optional[nn.Module]) -> Optional[str]:
    """Name of an activation that :func:`pointwise_conv` knows."""
    if type(act) is nn.GELU and act.approximate == 'none':
        return 'gelu'
    return 'relu' if type(act) is nn.ReLU else None


def _is_plain_pointwise(conv: nn.Module) -> bool:
    """Whether nothing but its weights says what a convolution does."""
    return (type(conv) is nn.Conv2d and conv.kernel_size == conv.stride == (1, 1)
            and conv.groups == 1)
