"""Attention modulated by a Gaussian around a point of every query.

The operator of SMCA-DETR (arXiv 2101.07448).

Shape legend: B batch, M heads, L queries, H and W size of the feature map, N = H * W keys, row by
row, D channels of a head.
"""
from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .affinity import gaussian_affinity

FORMS = ('auto', 'fold', 'separable', 'explicit')


def gaussian_attention(query: Tensor,
                       key: Tensor,
                       value: Tensor,
                       point: Tensor,
                       scale: Optional[Tensor],
                       grid_size: Sequence[int],
                       smooth: float = 8.,
                       key_padding_mask: Optional[Tensor] = None,
                       dropout_p: float = 0.,
                       form: str = 'auto') -> Tensor:
    """Attend with softmax(Q K^T / sqrt(D) + log-Gaussian around the point of the query).

    The logits are computed in float32 (float64 for float64), under autocast as well.

    Args:
        query (Tensor): (B, M, L, D).
        key, value (Tensor): (B, M, N, D).
        point (Tensor): Points (B, M, L, 2) as (x, y) in cells of the feature map: the position in
            row r and column c is at x = c, y = r.
        scale (Tensor, optional): Scales before they are squared: (B, M, L, 2) for x and y, or
            (B, M, L, 3) with one for the product of both squared distances. Without it they are 1.
        grid_size (Sequence[int]): (H, W) of the feature map.
        smooth (float): Divisor of the exponent.
        key_padding_mask (Tensor, optional): (B, N) of bool, True where a key is padding. A query
            without any valid key attends equally to all.
        dropout_p (float): Probability of dropping an attention weight.
        form (str): 'explicit' builds the L x N affinity of every head.

    Returns:
        Tensor: (B, M, L, D) in the type of ``value``.
    """
    with torch.autocast(query.device.type, enabled=False):
        dtype = torch.promote_types(query.dtype, torch.float32)
        scale = None if scale is None else scale.to(dtype)
        affinity = gaussian_affinity(query.to(dtype), key.to(dtype), point.to(dtype), scale,
                                     grid_size, smooth, key_padding_mask)
        return (F.dropout(affinity, dropout_p) @ value.to(dtype)).to(value.dtype)
