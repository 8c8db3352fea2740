"""Bilinear resizing of what was learned at one map size and is used at another."""
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_map(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a feature map bilinearly, with the filter widened when it shrinks (antialiasing).

    Args:
        x (Tensor): (B, C, H, W).
        size (Sequence[int]): (height, width) of the result.

    Returns:
        Tensor: (B, C, height, width) in the dtype of ``x``; ``x`` itself where nothing changes.
    """
    # Comparing sizes while tracing would fix the outcome for all later sizes.
    if not torch.jit.is_tracing() and tuple(x.shape[-2:]) == tuple(size):
        return x
    # The antialiased kernel of the CPU knows no half precision.
    resized = F.interpolate(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x,
                            size, mode='bilinear', antialias=True)
    return resized.to(x.dtype)


def at_grid_size(aggregation: Callable[[Tensor], Tensor], value: Tensor,
                 grid_size: Sequence[int]) -> Tensor:
    """Apply an aggregation that knows one map size only to a map of any size.

    Values are resized to the grid, aggregated there, and the result is resized back. It is what a
    bilinearly resized affinity matrix gives (:func:`mmcontainer.ops.affinity.resize_affinity`),
    without that matrix, which would have 4e9 entries in stage 1 of an 800 x 1333 image.

    Args:
        aggregation (Callable): Maps (B, C, *grid_size) to the same shape, linearly.
        value (Tensor): (B, C, H, W).
        grid_size (Sequence[int]): (height, width) of the aggregation's grid.

    Returns:
        Tensor: (B, C, H, W).
    """
    return resize_map(aggregation(resize_map(value, grid_size)), value.shape[-2:])
