"""1x1 convolutions of deployed layers, with what comes behind them in the same pass."""
from typing import Optional

import torch
from torch import Tensor, nn

from ...ops.capture import is_captured
from ..plain_parts import activation_name, is_hooked, is_pointwise
from .packed import PackedConv2d


def pointwise_to_nchw(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """1x1 convolution of x (B, C, H, W) in any format, contiguous (B, C_out, H, W).

    A product of matrices writes its result in rows or in columns; converting the result of a
    convolution takes several times as long as computing it.

    Args:
        x (Tensor): Feature map (B, C, H, W).
        weight (Tensor): (C_out, C, 1, 1).
        bias (Tensor, optional): (C_out, ).
    """
    # B C H W -> B N C -> B C N: in channels_last a view, whose strides bmm takes as they are.
    positions = x.permute(0, 2, 3, 1).flatten(1, 2).mT
    weight = weight.flatten(1).expand(len(x), -1, -1)
    if bias is None:
        out = torch.bmm(weight, positions)
    else:
        out = torch.baddbmm(bias[:, None], weight, positions)
    return out.unflatten(2, x.shape[2:])


def may_overwrite(module: nn.Module) -> bool:
    """Tell whether a module may overwrite maps of its own: in evaluation, without gradients.

    It may not where a part of the module has a hook: hooks expect that every part is called, on
    whole maps, and that the maps they were given stay as they are.
    """
    return not (module.training or torch.is_grad_enabled() or is_captured() or is_hooked(module))


def pointwise(conv: nn.Module,
              x: Tensor,
              act: Optional[nn.Module] = None,
              out: Optional[Tensor] = None) -> Tensor:
    """``act(conv(x))`` or ``act(out + conv(x))``; ``out`` is overwritten.

    A module that is no packed convolution, GELU or ReLU, such as an adapter put in its place, is
    called as it is.
    """
    name = activation_name(act)
    if type(conv) is PackedConv2d:
        y = conv.fused(x, name, out)
        return y if name or act is None else act(y)
    y = conv(x) if out is None else out.add_(conv(x))
    return y if act is None else act(y)


def pointwise_nchw(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)``, contiguous (B, C_out, H, W) whatever the format of x."""
    if type(conv) is PackedConv2d and is_pointwise(conv):
        return pointwise_to_nchw(x, conv.weight, conv.bias)
    return conv(x).contiguous()
