"""Bilinear resizing of what was learned at one map size and is used at another."""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def resize_weights(old: int, new: int, like: Tensor) -> Tensor:
    """Weights of one-dimensional bilinear resizing: ``new values = weights @ old values``.

    Pixel centres lie at half-integers. When the map shrinks, the triangle of weights is widened
    with the pixels, so that no value is skipped (antialiasing).

    Args:
        old, new (int): Lengths.
        like (Tensor): Gives dtype and device.

    Returns:
        Tensor: (new, old); every row sums to one.
    """
    # In float32 or better: half precision cannot tell the positions of a large map apart.
    dtype = torch.promote_types(like.dtype, torch.float32)
    scale = old / new
    centres = (torch.arange(new, dtype=dtype, device=like.device) + 0.5) * scale
    pixels = torch.arange(old, dtype=dtype, device=like.device) + 0.5
    # A tensor, not Python's max: while tracing, the sizes are tensors whose values may change.
    reach = (torch.ones(1, dtype=dtype, device=like.device) * scale).clamp(min=1)
    weights = (1 - (centres[:, None] - pixels).abs() / reach).clamp(min=0)
    # At the border there are no pixels on the outer side: those inside make up for them.
    return (weights / weights.sum(dim=1, keepdim=True)).to(like.dtype)


def resize_map(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a feature map bilinearly, with antialiasing when it shrinks.

    ``F.interpolate(..., antialias=True)`` has the same result, except where it has none or a wrong
    one: PyTorch 2.12 refuses half precision on the CPU and errs for some maps of one column.

    Args:
        x (Tensor): (B, C, H, W).
        size (Sequence[int]): (height, width) of the result.

    Returns:
        Tensor: (B, C, height, width) in the dtype of ``x``; ``x`` itself where nothing changes.
    """
    # Comparing sizes while tracing would fix the outcome for all later sizes.
    if not torch.jit.is_tracing() and tuple(x.shape[-2:]) == tuple(size):
        return x
    rows, columns = (resize_weights(old, new, x) for old, new in zip(x.shape[-2:], size))
    return torch.einsum('ih,bchw,jw->bcij', rows, x, columns)


def at_grid_size(aggregation: Callable[[Tensor], Tensor], value: Tensor,
                 grid_size: Sequence[int]) -> Tensor:
    """Apply an aggregation that knows one map size only to a map of any size.

    Values are resized to the grid, aggregated there, and the result is resized back. It is what a
    bilinearly resized affinity matrix gives (:func:`mmcontainer.ops.explicit.resize_affinity`),
    without that matrix, which would have 4e9 entries in stage 1 of an 800 x 1333 image.

    Args:
        aggregation (Callable): Maps (B, C, *grid_size) to the same shape, linearly.
        value (Tensor): (B, C, H, W).
        grid_size (Sequence[int]): (height, width) of the aggregation's grid.

    Returns:
        Tensor: (B, C, H, W).
    """
    return resize_map(aggregation(resize_map(value, grid_size)), value.shape[-2:])
