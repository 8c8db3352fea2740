"""Explicit affinity matrices: the unified view of the Container paper as running code.

Attention, depth-wise convolution and their mixture are all ``A V`` with a matrix A of size N x N.
The models never build A (see :mod:`mmcontainer.ops.aggregation`); it is built here to prove the
fast forms right and to draw figures. Memory is quadratic in N: use it on small maps.

Shape legend as in :mod:`mmcontainer.ops.aggregation`. Row i of A holds the weights with which
position i collects from every position j; positions are numbered row by row.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from .aggregation import merge_heads, split_heads


def attention_affinity(query: Tensor, key: Tensor, num_heads: int) -> Tensor:
    """Dynamic affinity softmax(Q K^T / sqrt(D)), equation (4) of arXiv 2106.01401.

    Args:
        query, key (Tensor): Feature maps (B, C, H, W).
        num_heads (int): Number of heads M.

    Returns:
        Tensor: (B, M, N, N); every row sums to one.
    """
    query, key = split_heads(query, num_heads), split_heads(key, num_heads)
    logits = query @ key.transpose(-2, -1) / query.shape[-1]**0.5
    return logits.softmax(dim=-1)


def depthwise_affinity(weight: Tensor, height: int, width: int) -> Tensor:
    """Static affinity of a zero-padded depth-wise convolution, equation (5) of arXiv 2106.01401.

    A[m, i, j] is the kernel weight that links output position i to input position j, and 0 where j
    lies outside the window of i.

    Args:
        weight (Tensor): Kernels (C, 1, k, k) with odd k; every channel is a head of its own.
        height, width (int): Size of the feature map.

    Returns:
        Tensor: (C, N, N) with N = height * width.
    """
    channels, kernel_size = weight.shape[0], weight.shape[-1]
    positions = height * width
    # Unfolding the identity gives, for each output position i and tap t, the one-hot row that
    # tells which input position the tap reads; taps that fall on the padding give a zero row.
    identity = torch.eye(positions, dtype=weight.dtype, device=weight.device)
    taps = F.unfold(
        identity.view(positions, 1, height, width), kernel_size, padding=kernel_size // 2)
    return torch.einsum('ct,jti->cij', weight.view(channels, -1), taps)


def mixed_affinity(dynamic: Tensor, static: Tensor, alpha: Tensor) -> Tensor:
    """Mixture ``alpha * A_dynamic(X) + (1 - alpha) * A_static`` of equation (9).

    Args:
        dynamic (Tensor): Attention affinity (B, M, N, N).
        static (Tensor): Per-channel affinity (C, N, N); C must be a multiple of M.
        alpha (Tensor): Share of the dynamic affinity, one value.

    Returns:
        Tensor: (B, C, N, N).
    """
    channels = static.shape[0]
    dynamic = dynamic.repeat_interleave(channels // dynamic.shape[1], dim=1)
    return alpha * dynamic + (1 - alpha) * static


def aggregate(affinity: Tensor, value: Tensor) -> Tensor:
    """Aggregate ``A V`` explicitly, equation (3) of arXiv 2106.01401.

    Args:
        affinity (Tensor): (B, M, N, N), or (M, N, N) shared by the whole batch.
        value (Tensor): Feature map (B, C, H, W); C must be a multiple of M.

    Returns:
        Tensor: Aggregated feature map (B, C, H, W).
    """
    height, width = value.shape[-2:]
    num_heads = affinity.shape[-3]
    return merge_heads(affinity @ split_heads(value, num_heads), height, width)
