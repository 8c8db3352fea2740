"""Local aggregation: every position mixes its k x k neighbours with weights of its own.

The operator of Contextual Transformer networks (CoTNet, arXiv 2107.12292). As an affinity matrix
A of size N x N it is sparse: row i holds the k*k weights of position i, at its neighbours' columns.

Shape legend: B batch, C channels, H and W spatial size, M heads, G weight channels, S = C / G
channels that share a weight, K = k*k taps.

    out[b, m*C + c, y, x] = sum over taps (row, col) of
        weight[b, m, c mod G, k*row + col, y, x] * x[b, c, y + d*(row - r), x + d*(col - r)]

with dilation d and r = (k - 1) / 2; x is 0 outside the map. Channels that share a weight are
c, c + G, c + 2G ...: strided, not neighbours.
"""
import functools
import warnings
from types import ModuleType
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..torch_compat import HAS_TRITON_3, autocast_dtype, define_operator, needs_onnx_operators
from . import _local_aggregation_torch as torch_form
from ._local_aggregation_torch import empty_maps
from .capture import is_transformed


def local_aggregation(x: Tensor, weight: Tensor, kernel_size: int = 3, dilation: int = 1) -> Tensor:
    """Mix the k x k neighbours of every position with the weights of that position.

    Memory beyond the result is a few MB, and only ``x`` and ``weight`` are kept for the backward
    pass, which can itself be differentiated. Half precision is summed up in float32. Maps stored
    in channels_last are taken as they are, and the result has the layout of ``x``. On a GPU it is
    a Triton kernel, if Triton is installed; elsewhere PyTorch operators.

    Under autocast both inputs are cast to its type. ``torch.compile`` and ``torch.export`` see one
    operator, ``mmcontainer::local_aggregation``; an ONNX export and ``torch.func`` see shifted
    products.

    Args:
        x (Tensor): Feature map (B, C, H, W).
        weight (Tensor): Weights (B, G, K, H, W), or (B, M, G, K, H, W) with several heads. Tap
            k*row + col belongs to the neighbour in that row and column of the window.
        kernel_size (int): Size k of the window, odd.
        dilation (int): Distance between neighbouring taps.

    Returns:
        Tensor: (B, M*C, H, W); channel m*C + c is channel c seen by head m.

    Raises:
        ValueError: If shapes, types or devices do not fit together.
    """
    if needs_onnx_operators() or is_transformed():
        return shifted_products(x, weight, kernel_size, dilation)
    _check(x, weight, kernel_size, dilation)
    x, weight = _cast_for_autocast(x, weight)
    if x.dtype != weight.dtype:
        raise ValueError(
            f'x and weight must have one type, found {x.dtype} and {weight.dtype}; convert one, or '
            'use torch.autocast.')
    weight = weight if weight.dim() == 6 else weight[:, None]
    return aggregate(x, weight, kernel_size, dilation)


def unfold_local_aggregation(
        x: Tensor, weight: Tensor, kernel_size: int = 3, dilation: int = 1) -> Tensor:
    """Explicit twin of :func:`local_aggregation`: copies x k*k times, then multiplies and sums."""
    _check(x, weight, kernel_size, dilation)
    batch, channels, height, width = x.shape
    weight = weight if weight.dim() == 6 else weight[:, None]
    _, heads, groups, taps = weight.shape[:4]
    padding = dilation * (kernel_size - 1) // 2
    if 0 in x.shape:  # which F.unfold does not accept
        return (x * weight.sum()).repeat(1, heads, 1, 1)
    columns = F.unfold(x, kernel_size, dilation, padding)
    columns = columns.view(batch, 1, channels // groups, groups, taps, height, width)
    return (columns * weight[:, :, None]).sum(4).view(batch, heads * channels, height, width)


def shifted_products(
        x: Tensor, weight: Tensor, kernel_size: int = 3, dilation: int = 1) -> Tensor:
    """:func:`local_aggregation` in plain operators, for those that know no other.

    A sum of k*k products of the weights with shifted maps; it needs k*k times the memory of x when
    it is differentiated.
    """
    batch, channels, height, width = x.shape
    weight = weight if weight.dim() == 6 else weight[:, None]
    heads, groups = weight.shape[1:3]
    padding = dilation * (kernel_size - 1) // 2
    x = F.pad(x, (padding, ) * 4).unflatten(1, (1, channels // groups, groups))
    out = 0
    for tap in range(kernel_size**2):
        top, left = (dilation * offset for offset in divmod(tap, kernel_size))
        out = out + weight[:, :, None, :, tap] * x[..., top:top + height, left:left + width]
    return out.reshape(batch, heads * channels, height, width)


# ---------------------------------------------------------------- the operator, for x (B, C, H, W)
# and weight (B, M, G, K, H, W). It is linear in x and in weight, so that its gradients are made of
# itself and of its own backward operator, to any order.

def _run(x: Tensor, weight: Tensor, kernel_size: int, dilation: int) -> Tensor:
    return _form_for(x, weight).aggregate(x, weight, kernel_size, dilation)


def _run_backward(grad: Tensor, x: Tensor, weight: Tensor, kernel_size: int,
                  dilation: int) -> tuple[Tensor, Tensor]:
    return _form_for(x, weight).aggregate_backward(grad, x, weight, kernel_size, dilation)


def _like_result(x: Tensor, weight: Tensor, kernel_size: int, dilation: int) -> Tensor:
    return empty_maps((x.shape[0], weight.shape[1] * x.shape[1], *x.shape[2:]), like=x)


def _like_gradients(grad: Tensor, x: Tensor, weight: Tensor, kernel_size: int,
                    dilation: int) -> tuple[Tensor, Tensor]:
    return empty_maps(x.shape, like=x), empty_maps(weight.shape, like=x)


def _save_inputs(ctx, inputs: tuple, output: object) -> None:
    *tensors, ctx.kernel_size, ctx.dilation = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad: Tensor) -> tuple:
    x, weight = ctx.saved_tensors
    return *aggregate_backward(grad, x, weight, ctx.kernel_size, ctx.dilation), None, None


def _differentiate_backward(ctx, grad_x: Optional[Tensor],
                            grad_weight: Optional[Tensor]) -> tuple:
    grad, x, weight = ctx.saved_tensors
    window = ctx.kernel_size, ctx.dilation
    grad_x = torch.zeros_like(x) if grad_x is None else grad_x
    grad_weight = torch.zeros_like(weight) if grad_weight is None else grad_weight
    to_grad = aggregate(grad_x, weight, *window) + aggregate(x, grad_weight, *window)
    return to_grad, *aggregate_backward(grad, grad_x, grad_weight, *window), None, None


aggregate = define_operator(
    'local_aggregation(Tensor x, Tensor weight, int kernel_size, int dilation) -> Tensor',
    _run, _like_result, _save_inputs, _differentiate)
aggregate_backward = define_operator(
    'local_aggregation_backward(Tensor grad, Tensor x, Tensor weight, int kernel_size, '
    'int dilation) -> (Tensor, Tensor)',
    _run_backward, _like_gradients, _save_inputs, _differentiate_backward)


def _form_for(x: Tensor, weight: Tensor) -> ModuleType:
    """Module with the implementation for a device, type and size."""
    if x.is_cuda and _can_use_triton(x.device, x.dtype):
        from . import _local_aggregation_triton as triton_form
        if triton_form.fits(x, weight):
            return triton_form
    return torch_form


@functools.cache
def _can_use_triton(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether Triton 3 works and knows the GPU: from capability 7 on, for bfloat16 8."""
    needed = 8 if dtype == torch.bfloat16 else 7
    return (HAS_TRITON_3 and torch.cuda.get_device_capability(device)[0] >= needed
            and _has_triton_driver())


@functools.cache
def _has_triton_driver() -> bool:
    """Tell whether Triton can launch kernels: it compiles a helper in C first, with headers."""
    import triton
    try:
        triton.runtime.driver.active.utils  # noqa: B018
    except Exception as error:  # of the compiler, of the linker, of the loader
        warnings.warn('Triton does not work here, so that PyTorch computes CoT\'s local '
                      f'aggregation, more slowly: {type(error).__name__}: {error}. It needs a C '
                      'compiler and the headers of Python.', stacklevel=2)
        return False
    return True


def _cast_for_autocast(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type of autocast, where it is on; as everywhere in PyTorch, not from float64."""
    dtype = autocast_dtype(x.device.type)
    if dtype is None or torch.float64 in (x.dtype, weight.dtype):
        return x, weight
    return x.to(dtype), weight.to(dtype)


def _check(x: Tensor, weight: Tensor, kernel_size: int, dilation: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f'local_aggregation needs an odd kernel_size, found {kernel_size}.')
    if dilation < 1:
        raise ValueError(f'local_aggregation needs dilation >= 1, found {dilation}.')
    if not x.is_floating_point() or x.device != weight.device:
        raise ValueError(
            'local_aggregation needs floating point numbers on one device, found x '
            f'{x.dtype} on {x.device} and weight {weight.dtype} on {weight.device}.')
    if x.dim() != 4 or weight.dim() not in (5, 6):
        raise ValueError(
            'local_aggregation needs x (B, C, H, W) and weight (B, G, k*k, H, W), or (B, heads, G, '
            f'k*k, H, W); found x {tuple(x.shape)} and weight {tuple(weight.shape)}.')
    groups, taps = weight.shape[-4:-2]
    if taps != kernel_size**2:
        raise ValueError(
            f'A window of {kernel_size} x {kernel_size} needs {kernel_size**2} weights per '
            f'position in dimension -3 of weight; found weight {tuple(weight.shape)}.')
    if weight.shape[0] != x.shape[0] or weight.shape[-2:] != x.shape[-2:]:
        raise ValueError(
            'Every position of x needs its own weights: batch, height and width must be equal; '
            f'found x {tuple(x.shape)} and weight {tuple(weight.shape)}.')
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(
            f'The channels of x must be a multiple of the weight channels: found {x.shape[1]} '
            f'channels and {groups} weight channels.')
