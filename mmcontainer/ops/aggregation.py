"""Context aggregation ``A V`` in its fast forms: no affinity matrix is ever built.

Every function has an explicit twin in :mod:`mmcontainer.ops.explicit`; the tests prove that both
give the same numbers, forward and backward.

Shape legend: B batch, C channels, H and W spatial size, N = H * W positions in row-major order,
M heads, D = C / M channels of one head.
"""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..torch_compat import is_exporting, needs_onnx_operators
from .depthwise import depthwise_conv2d
from .fused_attention import fused_attention

# ONNX has no operator for fused attention. With more positions than this in the example images, an
# exported graph builds the affinity matrix in so many pieces.
_FEW_POSITIONS, _PIECES = 2048, 32


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Turn a feature map into per-head token sequences.

    Args:
        x (Tensor): Feature map (B, C, H, W); head m owns channels m*D ... (m+1)*D - 1.
        num_heads (int): Number of heads M; C must be a multiple of it.

    Returns:
        Tensor: Tokens (B, M, N, D), contiguous in D.
    """
    batch, channels, height, width = x.shape
    x = x.reshape(batch, num_heads, channels // num_heads, height * width)
    # The fused attention kernels need the channels of a token next to each other; with any other
    # layout PyTorch silently falls back to the form that builds the N x N matrix.
    return x.transpose(-2, -1).contiguous()


def merge_heads(x: Tensor, height: int, width: int) -> Tensor:
    """Undo :func:`split_heads`: tokens (B, M, N, D) to a feature map (B, C, H, W)."""
    # B M N D -> B N M D -> B H W C -> B C H W; fused attention returns B N M D in memory, so that
    # no copy is made and the result is channels_last.
    x = x.transpose(1, 2).flatten(2).unflatten(1, (height, width))
    return x.permute(0, 3, 1, 2)


def self_attention(query: Tensor,
                   key: Tensor,
                   value: Tensor,
                   num_heads: int,
                   kv_stride: int = 1) -> Tensor:
    """Aggregate ``value`` with the dynamic affinity softmax(Q K^T / sqrt(D)).

    Equation (4) of the Container paper (arXiv 2106.01401), in memory linear in N and in time
    proportional to N^2 / kv_stride^2.

    Args:
        query, key, value (Tensor): Feature maps (B, C, H, W) of the same shape.
        num_heads (int): Number of heads M.
        kv_stride (int): Average keys and values over windows of this size (cut off at the lower and
            right border) before attending to them. 1, the paper's form, does not.

    Returns:
        Tensor: Aggregated feature map (B, C, H, W).
    """
    height, width = query.shape[-2:]
    if kv_stride > 1:
        key, value = (F.avg_pool2d(t, kv_stride, ceil_mode=True) for t in (key, value))
    query, key, value = (split_heads(t, num_heads) for t in (query, key, value))
    if is_exporting() and needs_onnx_operators() and height * width > _FEW_POSITIONS:
        tokens = _attend_in_pieces(query, key, value)
    else:
        tokens = fused_attention(query, key, value)
    return merge_heads(tokens, height, width)


def _attend_in_pieces(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Fused attention for runtimes without: a part of the affinity matrix at a time."""
    length = query.shape[2]
    rows = (length + _PIECES - 1) // _PIECES
    queries = F.pad(query, (0, 0, 0, _PIECES * rows - length)).unflatten(2, (_PIECES, rows))
    outs = [F.scaled_dot_product_attention(piece, key, value) for piece in queries.unbind(2)]
    return torch.cat(outs, dim=2)[:, :, :length]


def depthwise_aggregation(value: Tensor,
                          weight: Tensor,
                          bias: Optional[Tensor] = None,
                          head_dim: int = 1) -> Tensor:
    """Aggregate ``value`` with the static affinity of a depth-wise convolution.

    Equation (5) of the Container paper in two dimensions, zero padding, stride 1.

    Args:
        value (Tensor): Feature map (B, C, H, W).
        weight (Tensor): Odd k x k kernels (M, 1, k, k), one per head.
        bias (Tensor, optional): Per-channel offset (C, ), added after the aggregation.
        head_dim (int): Neighbouring channels D = C / M that share a kernel; with 1 every channel
            has its own.

    Returns:
        Tensor: Aggregated feature map (B, C, H, W).
    """
    if head_dim > 1:
        weight = weight.repeat_interleave(head_dim, dim=0)
    # Not the half of a size, which PyTorch 2.1 refuses while it traces: sizes are tensors then.
    return depthwise_conv2d(value, weight, bias, padding='same')


def dense_aggregation(tokens: Tensor, matrix: Tensor) -> Tensor:
    """Aggregate tokens with a learned static affinity, one N x N matrix per head.

    The spatial step of an MLP-Mixer, section 3.2 of arXiv 2106.01401 (M = 1), and of its multi-head
    form.

    Args:
        tokens (Tensor): (B, M, N, D).
        matrix (Tensor): (M, N, N).

    Returns:
        Tensor: (B, M, N, D).
    """
    # Not ``matrix @ tokens``, which copies the matrix for every sample of the batch.
    return torch.einsum('mij,bmjd->bmid', matrix, tokens)


def low_rank_aggregation(tokens: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """:func:`dense_aggregation` with ``left @ right`` in place of the matrix, never built.

    Args:
        tokens (Tensor): (B, M, N, D).
        left (Tensor): (M, N, R).
        right (Tensor): (M, R, N).

    Returns:
        Tensor: (B, M, N, D).
    """
    return dense_aggregation(dense_aggregation(tokens, right), left)


def mix(dynamic: Tensor, static: Tensor, alpha: Tensor) -> Tensor:
    """Return ``alpha * dynamic + (1 - alpha) * static``, the mixture of equation (9).

    Args:
        dynamic, static (Tensor): Tensors of one shape.
        alpha (Tensor): Share of the dynamic part in [0, 1], broadcastable to both.
    """
    return torch.lerp(static, dynamic, alpha.to(static.dtype))
