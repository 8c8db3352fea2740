"""Depth-wise convolution whose weights' gradient is exact, and fast, in half precision too."""
from functools import partial
from typing import Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import has_own_backward, plain_gradients
from .precision import computing_dtype, without_autocast


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None,
                     stride: int = 1, padding: Union[int, str] = 'same') -> Tensor:
    """Depth-wise convolution with zero padding of half the kernel.

    In training with half precision on a CPU the gradients of weight and bias, sums over all
    positions, are computed in float32 from the rounded maps. That is more exact, and oneDNN takes a
    third of the time that it takes in bfloat16. It can be differentiated twice.

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
    if dtype not in (torch.bfloat16, torch.float16) or not has_own_backward(x):
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
            if needed[1] or needed[2]:
                _, to_weight, to_bias = _backward(
                    grad.float(), x.float(), weight.float(), ctx.stride, (False, *needed[1:3]))
        return to_x, *(None if gradient is None else gradient.to(weight.dtype)
                       for gradient in (to_weight, to_bias)), None


def _convolve(x: Tensor, weight: Tensor, bias: Optional[Tensor], stride: int) -> Tensor:
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, weight.to(x.dtype), bias, stride, weight.shape[-1] // 2,
                    groups=weight.shape[0])


def _backward(grad: Tensor, x: Tensor, weight: Tensor, stride: int, needed: tuple) -> tuple:
    channels, padding = weight.shape[0], weight.shape[-1] // 2
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [channels], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], channels,
        needed)
