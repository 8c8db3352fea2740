"""1x1 convolutions with activation and residual in the same pass, for inference on a CPU.

One by one, bias, activation and residual each read and write the whole map; between them the map
has left the cache. oneDNN applies them to the values that its matrix product still holds in
registers. PyTorch reaches that through the operators that ``torch.compile`` puts in place of such
chains; used directly they need no compiler. Where they do not apply, the same chain runs as
separate operators.
"""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops.capture import is_captured
from ...ops.precision import computing_dtype

# Up to so many positions a matrix product is faster: a convolution lays out its weights anew in
# every call, which has to pay.
_FEW_POSITIONS = 512
_GEOMETRY = [0, 0], [1, 1], [1, 1], 1  # padding, stride, dilation, groups


def _is_nhwc(x: Tensor) -> bool:
    """Tell whether the format is channels_last alone (a 1 x 1 map is in both formats)."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _fuses(x: Tensor, out: Optional[Tensor]) -> bool:
    """Tell whether oneDNN's fused operators apply."""
    if (x.device.type != 'cpu' or not torch.backends.mkldnn.enabled
            or torch.is_grad_enabled() or is_captured()):
        return False
    if not hasattr(torch.ops.mkldnn, '_convolution_pointwise'):  # built without oneDNN
        return False
    if x.dtype != torch.float32 and not (
            x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    return x.numel() > 0 and _is_nhwc(x) and (
        out is None or (_is_nhwc(out) and out.dtype == x.dtype))


def _add_and_activate(y: Tensor, activation: Optional[str], out: Optional[Tensor]) -> Tensor:
    """Add the residual and apply the activation, in place, as separate operators."""
    y = y if out is None else out.add_(y)
    return y if activation is None else getattr(torch.ops.aten, f'{activation}_')(y)


def fused_pointwise(x: Tensor,
                   weight: Tensor,
                   bias: Optional[Tensor] = None,
                   activation: Optional[str] = None,
                   out: Optional[Tensor] = None) -> Tensor:
    """``activation(conv1x1(x))``, or with ``out`` ``activation(out + conv1x1(x))`` in its place.

    Under autocast it computes in the type of autocast, like any convolution.

    Args:
        x (Tensor): Feature map (B, C, H, W).
        weight (Tensor): (C_out, C, 1, 1).
        bias (Tensor, optional): (C_out, ).
        activation (str, optional): 'gelu' (exact), 'relu' or nothing.
        out (Tensor, optional): Map (B, C_out, H, W) to add to, overwritten and returned.

    Returns:
        Tensor: (B, C_out, H, W).
    """
    x = x.to(computing_dtype(x))
    if not _fuses(x, out):
        return _add_and_activate(F.conv2d(x, weight, bias), activation, out)
    weight = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    many = x[:, 0].numel() > _FEW_POSITIONS
    if out is not None and many:
        y = torch.ops.mkldnn._convolution_pointwise_.binary(
            out, x, weight, bias, *_GEOMETRY, 'add', 1., None, [], None)
        return _add_and_activate(y, activation, None)
    # Only GELU, by the error function ('none' approximates it): oneDNN's ReLU turns NaN into 0.
    fused = 'gelu' if activation == 'gelu' and out is None else 'none'
    if many:
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *_GEOMETRY, fused, [], 'none')
    else:
        rows = x.permute(0, 2, 3, 1)  # B C H W -> B H W C
        y = torch.ops.mkldnn._linear_pointwise(rows, weight.flatten(1), bias, fused, [], 'none')
        y = y.permute(0, 3, 1, 2)
    return _add_and_activate(y, None if fused == activation else activation, out)


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
    return not (module.training or torch.is_grad_enabled() or is_captured()
                or any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()))


def pointwise(conv: nn.Module,
              x: Tensor,
              act: Optional[nn.Module] = None,
              out: Optional[Tensor] = None) -> Tensor:
    """``act(conv(x))`` or ``act(out + conv(x))``; ``out`` is overwritten.

    A module that is no plain 1x1 convolution, GELU or ReLU, such as an adapter put in its place, is
    called as it is.
    """
    name = _operator_of(act)
    if _is_plain(conv):
        y = fused_pointwise(x, conv.weight, conv.bias, name, out)
        return y if name or act is None else act(y)
    y = conv(x) if out is None else out.add_(conv(x))
    return y if act is None else act(y)


def pointwise_nchw(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)``, contiguous (B, C_out, H, W) whatever the format of x."""
    if _is_plain(conv):
        return pointwise_to_nchw(x, conv.weight, conv.bias)
    return conv(x).contiguous()


def _operator_of(act: Optional[nn.Module]) -> Optional[str]:
    """Name of an activation that :func:`fused_pointwise` knows."""
    if type(act) is nn.GELU and act.approximate == 'none':
        return 'gelu'
    return 'relu' if type(act) is nn.ReLU else None


def _is_plain(conv: nn.Module) -> bool:
    return (type(conv) is nn.Conv2d and conv.kernel_size == conv.stride == (1, 1)
            and conv.groups == 1)
