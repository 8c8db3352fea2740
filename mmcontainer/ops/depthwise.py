"""Depth-wise convolution whose weights' gradient is fast on a CPU, and exact in half precision."""
from collections.abc import Iterator
from functools import partial
from typing import Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from .autograd import has_own_backward, plain_gradients
from .precision import computing_dtype, without_autocast

# oneDNN knows the gradient of depth-wise kernels of up to this many columns, and of any number of
# rows. For wider ones it computes, and throws away, the gradients between 16 neighbouring channels.
MAX_COLUMNS = 3
# Of the rows of a map that are computed at a time, in float32: what caches hold.
CHUNK_BYTES = 2**22


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None,
                     stride: int = 1, padding: Union[int, str] = 'same') -> Tensor:
    """Depth-wise convolution with zero padding of half the kernel.

    In training on a CPU the gradients of weight and bias, sums over all positions, are computed in
    float32, in half precision from the rounded maps, which is more exact. Those of wide kernels are
    computed as of several narrow ones, which is faster. It can be differentiated twice.

    Args:
        x (Tensor): Feature map (B, C, H, W).
        weight (Tensor): Odd k x k kernels (C, 1, k, k).
        bias (Tensor, optional): (C, ).
        stride (int): Stride.
        padding (int | str): Half the kernel, k // 2, which 'same' means with stride 1.

    Returns:
        Tensor: (B, C, ceil(H / stride), ceil(W / stride)).
    """
    dtype = computing_dtype(x)
    improved = dtype in (torch.bfloat16, torch.float16) or (
        dtype == weight.dtype == torch.float32 and _is_wide(weight, stride))
    if not improved or not has_own_backward(x) or not x.numel():
        return F.conv2d(x, weight, bias, stride, padding, groups=weight.shape[0])
    with without_autocast('cpu'):
        return _DepthwiseConv2d.apply(x.to(dtype), weight, bias, stride)


class _DepthwiseConv2d(torch.autograd.Function):
    """Takes weight and bias in their own type, and gives gradients of it."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Optional[Tensor], stride: int) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.stride = stride
        return _convolve(x, weight, bias, stride)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight, bias = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():  # to be differentiated again
            convolve = partial(_convolve, stride=ctx.stride)
            return *plain_gradients(convolve, (x, weight, bias), needed[:3], grad), None
        with without_autocast('cpu'):
            to_x = to_weight = to_bias = None
            if needed[0]:
                to_x = _backward(grad, x, weight.to(x.dtype), ctx.stride, (True, False, False))[0]
            if any(needed[1:3]) and _is_wide(weight, ctx.stride):
                to_weight, to_bias = _by_columns(grad, x, weight)
            elif any(needed[1:3]):
                _, to_weight, to_bias = _backward(
                    grad.float(), x.float(), weight.float(), ctx.stride, (False, *needed[1:3]))
        return to_x, *(gradient.to(weight.dtype) if is_needed else None for gradient, is_needed
                       in zip((to_weight, to_bias), needed[1:3])), None


def _convolve(x: Tensor, weight: Tensor, bias: Optional[Tensor], stride: int) -> Tensor:
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, weight.to(x.dtype), bias, stride, weight.shape[-1] // 2,
                    groups=weight.shape[0])


def _backward(grad: Tensor, x: Tensor, weight: Tensor, stride: int, needed: tuple) -> tuple:
    channels, padding = weight.shape[0], weight.shape[-1] // 2
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [channels], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], channels,
        needed)


def _is_wide(weight: Tensor, stride: int) -> bool:
    return weight.shape[-1] > MAX_COLUMNS and stride == 1


def _by_columns(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients to weight (C, 1, k, k) and bias (C, ), a few columns of the kernels at a time.

    Some columns of a kernel are a narrow kernel on the map, with zeros around it, moved sideways.
    """
    to_weight = torch.zeros_like(weight, dtype=torch.float32)
    to_bias = to_weight.new_zeros(len(weight))
    for rows, seen in _chunks(grad, x, weight.shape[-1] // 2):
        rows = rows.to(torch.float32, memory_format=torch.channels_last)
        to_bias += rows.sum((0, 2, 3))
        for index, narrow in enumerate(to_weight.split(MAX_COLUMNS, -1)):
            left = index * MAX_COLUMNS
            moved = seen[..., left:left + rows.shape[-1] + narrow.shape[-1] - 1]
            moved = moved.to(torch.float32, memory_format=torch.channels_last)
            narrow += conv2d_weight(moved, narrow.shape, rows, groups=len(narrow))
    return to_weight, to_bias


def _chunks(grad: Tensor, x: Tensor, reach: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of ``grad``, and what kernels that reach so far see of ``x`` with zeros around it."""
    channels, height, width = x.shape[1:]
    values = CHUNK_BYTES // 4
    images = max(1, values // (channels * height * width))
    step = max(1, values // (channels * width * images))
    for part, image in zip(grad.split(images), x.split(images)):
        for top in range(0, height, step):
            rows = part[:, :, top:top + step]
            first, last = top - reach, top + rows.shape[2] + reach
            above, below = max(0, -first), max(0, last - height)
            seen = image[:, :, first + above:last - below]
            yield rows, F.pad(seen, (reach, reach, above, below))
