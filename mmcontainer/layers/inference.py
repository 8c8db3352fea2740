"""What layers do otherwise in evaluation without gradients: work in place, fuse what follows."""
from typing import Optional

import torch
from torch import Tensor, nn

from ..ops.pointwise import add_and_activate, pointwise_conv, pointwise_conv_nchw


def may_overwrite(module: nn.Module) -> bool:
    """Whether maps that a module made itself may be overwritten: in evaluation, without gradients.

    Compilers and exporters get the plain form and choose their own way.
    """
    return not (module.training or torch.is_grad_enabled() or torch.jit.is_tracing()
                or torch.compiler.is_compiling())


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module does more than its ``forward``."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def infer_pointwise(conv: nn.Module,
                    x: Tensor,
                    activation: Optional[str] = None,
                    out: Optional[Tensor] = None) -> Tensor:
    """A convolution, its activation and its residual: :func:`mmcontainer.ops.pointwise_conv`.

    Other than 1x1 convolutions, those that somebody replaced (an adapter, a quantised one) and
    those with hooks are called.
    """
    if _is_plain_pointwise(conv):
        return pointwise_conv(x, conv.weight, conv.bias, activation, out)
    return add_and_activate(conv(x), activation, out)


def infer_pointwise_nchw(conv: nn.Module, x: Tensor) -> Tensor:
    """The same convolution with a contiguous result (B, C_out, H, W), whatever the format of x."""
    return pointwise_conv_nchw(x, conv.weight, conv.bias) if _is_plain_pointwise(
        conv) else conv(x).contiguous()


def _is_plain_pointwise(conv: nn.Module) -> bool:
    """Whether nothing but its weights says what a convolution does."""
    return (type(conv) is nn.Conv2d and conv.kernel_size == conv.stride == (1, 1)
            and conv.groups == 1 and not has_hooks(conv))
