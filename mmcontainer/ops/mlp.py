"""Point-wise MLP on feature maps, in chunks whose hidden map a cache can hold.

The hidden map is several times as large as what goes in and comes out, and nothing mixes its
positions: ``fc2(gelu(fc1(x)))`` of some rows of an image needs no other row.

Shape legend: B batch, C channels, D hidden channels, H x W positions; P positions of a chunk.
"""
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..torch_compat import autocast_dtype
from .autograd import plain_gradients
from .precision import without_autocast

# Of the hidden map of one chunk. Blocks of that size are never returned to the system. Smaller
# chunks are slower, because oneDNN lays out the weights anew in every call.
CHUNK_BYTES = 2**23


def chunks_of(x: Tensor, hidden_dims: int) -> Iterator[Tensor]:
    """Views that together are ``x``: images, or rows of an image, that a cache can hold.

    Only a channels_last map on a CPU is divided, if there is anything in it.
    """
    if (x.device.type != 'cpu' or not x.numel()
            or not x.is_contiguous(memory_format=torch.channels_last)):
        yield x
        return
    height, width = x.shape[-2:]
    values = CHUNK_BYTES // x.element_size()
    for images in x.split(max(1, values // (hidden_dims * height * width))):
        yield from images.split(max(1, values // (hidden_dims * width * len(images))), dim=2)


def pointwise_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor,
                  bias2: Tensor) -> Tensor:
    """``conv1x1(gelu(conv1x1(x)))`` that keeps one hidden map for the backward pass, not two.

    The map behind the exact GELU is computed again, chunk by chunk. With allocators that return
    large blocks to the system, such as glibc's by default, chunks spare most of the time that the
    system takes to hand out memory. Under autocast it computes in the type of autocast; gradients
    of weights are summed up over chunks in float32. It can be differentiated twice.

    Args:
        x (Tensor): Feature map (B, C, H, W) on a CPU, not empty.
        weight1 (Tensor): (D, C, 1, 1).
        bias1 (Tensor): (D, ).
        weight2 (Tensor): (C_out, D, 1, 1).
        bias2 (Tensor): (C_out, ).

    Returns:
        Tensor: (B, C_out, H, W) in channels_last.
    """
    dtype = autocast_dtype(x.device.type)
    parts = x.contiguous(memory_format=torch.channels_last), weight1, bias1, weight2, bias2
    if dtype is not None and x.dtype != torch.float64:
        parts = tuple(part.to(dtype) for part in parts)
    with without_autocast(x.device.type):
        return _PointwiseMlp.apply(*parts)


def _plain(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    return F.conv2d(F.gelu(F.conv2d(x, weight1, bias1)), weight2, bias2)


def _rows(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (P, C), in channels_last a view."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


class _PointwiseMlp(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor,
                bias2: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        out = x.new_empty(batch, height, width, len(weight2)).permute(0, 3, 1, 2)
        hidden_maps, memory = [], None
        for chunk, to_chunk in zip(*(chunks_of(maps, len(weight1)) for maps in (x, out))):
            hidden_maps.append(F.conv2d(chunk, weight1, bias1))
            hidden = _rows(hidden_maps[-1])
            memory = torch.empty_like(hidden) if memory is None else memory[:len(hidden)]
            torch.ops.aten.gelu.out(hidden, out=memory)
            torch.addmm(bias2, memory, weight2.flatten(1).mT, out=_rows(to_chunk))
        ctx.save_for_backward(x, weight1, bias1, weight2, bias2, *hidden_maps)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        saved = ctx.saved_tensors  # once: recomputation allows no second look
        inputs, hidden_maps = saved[:5], saved[5:]
        if torch.is_grad_enabled():  # to be differentiated again
            return plain_gradients(_plain, inputs, ctx.needs_input_grad, grad)
        grad = grad.contiguous(memory_format=torch.channels_last)
        with without_autocast(grad.device.type):
            return _gradients(grad, inputs, hidden_maps, ctx.needs_input_grad)


def _gradients(grad: Tensor, inputs: Sequence[Tensor], hidden_maps: Sequence[Tensor],
               needed: Sequence[bool]) -> tuple:
    """Gradients to the inputs of :func:`pointwise_mlp` that are needed, None in place of others."""
    x, weight1, bias1, weight2, bias2 = inputs
    sum_dtype = torch.promote_types(x.dtype, torch.float32)
    to_x = torch.empty_like(x) if needed[0] else None
    to_weight1, to_bias1, to_weight2, to_bias2 = (
        part.new_zeros(part.shape[:2], dtype=sum_dtype) if is_needed else None
        for part, is_needed in zip(inputs[1:], needed[1:]))
    chunks = [chunks_of(maps, len(weight1)) for maps in (x, grad, x if to_x is None else to_x)]
    memory = None
    for parts in zip(*chunks, hidden_maps):
        chunk, above, to_chunk, hidden = map(_rows, parts)
        memory = torch.empty_like(hidden) if memory is None else memory[:len(hidden)]
        if to_bias2 is not None:
            to_bias2 += above.sum(0)
        if to_weight2 is not None:
            torch.ops.aten.gelu.out(hidden, out=memory)
            to_weight2 += above.mT @ memory
        if not any(needed[:3]):
            continue
        to_hidden = torch.mm(above, weight2.flatten(1), out=memory)
        # Transposed: oneDNN, which PyTorch gives what is contiguous, takes twice the time here.
        torch.ops.aten.gelu_backward.grad_input(
            to_hidden.mT, hidden.mT, grad_input=to_hidden.mT)
        if to_weight1 is not None:
            to_weight1 += to_hidden.mT @ chunk
        if to_bias1 is not None:
            to_bias1 += to_hidden.sum(0)
        if to_x is not None:
            torch.mm(to_hidden, weight1.flatten(1), out=to_chunk)
    found = to_x, to_weight1, to_bias1, to_weight2, to_bias2
    return tuple(None if gradient is None else gradient.view(part.shape).to(part.dtype)
                 for gradient, part in zip(found, inputs))
