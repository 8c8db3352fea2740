"""What layers do otherwise in evaluation without gradients: work in place, fuse what follows."""
from typing import Optional

import torch
from torch import Tensor, nn

from ..ops.pointwise import add_and_activate, pointwise_conv


def may_overwrite(module: nn.Module) -> bool:
    """Whether maps that a module made itself may be overwritten: in evaluation, without gradients.

    Compilers and exporters get the plain form and choose their own way.
    """
    return not (module.training or torch.is_grad_enabled() or torch.jit.is_tracing()
                or torch.compiler.is_compiling())


def infer_pointwise(conv: nn.Module,
                    x: Tensor,
                    activation: Optional[str] = None,
                    out: Optional[Tensor] = None) -> Tensor:
    """A 1x1 convolution, its activation and its residual: :func:`mmcontainer.ops.pointwise_conv`.

    A convolution that somebody replaced (an adapter, a quantised one) or hooked is called.
    """
    if type(conv) is nn.Conv2d and not (conv._forward_hooks or conv._forward_pre_hooks):
        return pointwise_conv(x, conv.weight, conv.bias, activation, out)
    return add_and_activate(conv(x), activation, out)
