"""Modulated attention over several feature maps, whose results a query weighs against each other.

The operator of the multi-scale SMCA-DETR. The explicit twin is
:func:`mmcontainer.ops.multi_scale_gaussian_affinity`.

Shape legend: B batch, M heads, L queries, G groups of keys, each of a map of its own, row by row, S
keys of all groups together, D channels of a head.
"""
from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from .explicit import split_groups
from .modulated_attention import gaussian_attention


def multi_scale_gaussian_attention(query: Tensor,
                                   key: Tensor,
                                   value: Tensor,
                                   point: Tensor,
                                   scale: Optional[Tensor],
                                   group_weight: Tensor,
                                   grid_sizes: Sequence[Sequence[int]],
                                   smooths: Sequence[float],
                                   key_padding_mask: Optional[Tensor] = None,
                                   dropout_p: float = 0.,
                                   form: str = 'auto') -> Tensor:
    """Attend to every group by :func:`gaussian_attention`, and add the weighted results.

    Since each group has a softmax of its own, no tensor of L x S x M is needed for their sum. As
    weights of groups multiply weights of keys, it does not matter which of both dropout acts on.

    Args:
        query (Tensor): (B, M, L, D).
        key, value (Tensor): (B, M, S, D), one group after the other.
        point (Tensor): (G, B, M, L, 2), in cells of the group's map.
        scale (Tensor, optional): (G, B, M, L, 2), or 3 in the last dimension.
        group_weight (Tensor): (B, L, G), what the result of each group is multiplied with.
        grid_sizes (Sequence[Sequence[int]]): (H, W) of every group.
        smooths (Sequence[float]): Divisor of the exponent, of every group.
        key_padding_mask (Tensor, optional): (B, S) of bool, True where a key is padding.
        dropout_p, form: See :func:`gaussian_attention`.

    Returns:
        Tensor: (B, M, L, D) in the type of ``value``.

    Raises:
        ValueError: If shapes do not fit together, or see :func:`gaussian_attention`.
    """
    _check(query, key, point, scale, group_weight, grid_sizes, smooths)
    # What is added up is rounded once, at the end.
    dtype = torch.promote_types(value.dtype, torch.float32)
    sizes = [height * width for height, width in grid_sizes]
    groups = split_groups(key, point, scale, grid_sizes, smooths, key_padding_mask)
    out = 0.
    for weight, of_group, (of_key, *place) in zip(
            group_weight.to(dtype).unbind(-1), value.to(dtype).split(sizes, dim=2), groups):
        attended = gaussian_attention(query, of_key, of_group, *place, dropout_p, form)
        out = out + weight[:, None, :, None] * attended
    return out.to(value.dtype)


def _check(query, key, point, scale, group_weight, grid_sizes, smooths) -> None:
    """Raise ValueError unless all arguments are of the same groups."""
    sizes = [height * width for height, width in grid_sizes]
    if key.shape[2] != sum(sizes):
        maps = ', '.join(f'{height} x {width}' for height, width in grid_sizes)
        raise ValueError(f'Maps of {maps} cells have {sum(sizes)} keys together, found '
                         f'{key.shape[2]}. grid_sizes are (H, W).')
    groups = dict(point=len(point), scale=len(sizes) if scale is None else len(scale),
                  group_weight=group_weight.shape[-1], smooths=len(smooths))
    for name, number in groups.items():
        if number != len(sizes):
            raise ValueError(f'{name} is of {number} groups, grid_sizes of {len(sizes)}.')
    expected = (query.shape[0], query.shape[2], len(sizes))
    if group_weight.shape != expected:
        raise ValueError(f'group_weight must have shape {expected}, one weight per query and '
                         f'group; found {tuple(group_weight.shape)}.')
