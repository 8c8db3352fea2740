"""Explicit affinity matrices: the unified view of the Container paper as running code.

Attention, depth-wise convolution and their mixture are all ``A V`` with a matrix A of size N x N.
The models never build A (see :mod:`mmcontainer.ops.aggregation`); it is built here to prove the
fast forms right and to draw figures. Memory is quadratic in N: use it on small maps.

Shape legend as in :mod:`mmcontainer.ops.aggregation`. Row i of A holds the weights with which
position i collects from every position j; positions are numbered row by row.
"""
from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .aggregation import merge_heads, split_heads
from .resize import resize_weights

# Added to the logits of padding. Not -inf, since the folded form multiplies it by features.
PADDING_LOGIT = -1e30


def attention_affinity(query: Tensor,
                       key: Tensor,
                       num_heads: int,
                       kv_stride: int = 1,
                       positions: Optional[Tensor] = None) -> Tensor:
    """Dynamic affinity softmax(Q K^T / sqrt(D)), equation (4) of arXiv 2106.01401.

    With pooled keys and values it is softmax(Q (P K)^T / sqrt(D)) P, P the matrix that averages
    over windows: positions of one window get equal weights.

    Args:
        query, key (Tensor): Feature maps (B, C, H, W).
        num_heads (int): Number of heads M.
        kv_stride (int): Size of the windows over which keys and values are averaged.
        positions (Tensor, optional): Indices (P, ) of the rows to build; all without it.

    Returns:
        Tensor: (B, M, P, N); every row sums to one.
    """
    height, width = key.shape[-2:]
    if kv_stride > 1:
        key = F.avg_pool2d(key, kv_stride, ceil_mode=True)
    pooled_size = key.shape[-2:]
    query, key = split_heads(query, num_heads), split_heads(key, num_heads)
    if positions is not None:
        query = query[:, :, positions]
    logits = query @ key.transpose(-2, -1) / query.shape[-1]**0.5
    affinity = logits.softmax(dim=-1)
    if kv_stride == 1:
        return affinity
    # A window's weight belongs in equal parts to its positions; windows at the border have fewer.
    positions_of_window = F.avg_pool2d(
        key.new_ones(1, height, width), kv_stride, ceil_mode=True, divisor_override=1)
    shares = affinity.unflatten(-1, pooled_size) / positions_of_window
    shares = shares.repeat_interleave(kv_stride, dim=-2).repeat_interleave(kv_stride, dim=-1)
    return shares[..., :height, :width].flatten(-2)


def depthwise_affinity(weight: Tensor,
                       height: int,
                       width: int,
                       positions: Optional[Tensor] = None) -> Tensor:
    """Static affinity of a zero-padded depth-wise convolution, equation (5) of arXiv 2106.01401.

    A[m, i, j] is the kernel weight that links output position i to input position j, and 0 where j
    lies outside the window of i.

    Args:
        weight (Tensor): Kernels (M, 1, k, k) with odd k, one per head; a depth-wise convolution in
            the narrow sense has as many heads as channels.
        height, width (int): Size of the feature map.
        positions (Tensor, optional): Indices (P, ) of the rows to build; all without it.

    Returns:
        Tensor: (M, P, N) with N = height * width.
    """
    # Row i is what reaches output i from each input: the kernel laid around position i, which is
    # the transposed convolution of a map that is 1 at i and 0 elsewhere.
    one_hot = _one_hot_maps(height, width, weight, positions)
    rows = F.conv_transpose2d(one_hot, weight.transpose(0, 1), padding=weight.shape[-1] // 2)
    return rows.flatten(2).transpose(0, 1)


def local_affinity(weight: Tensor, kernel_size: int = 3, dilation: int = 1) -> Tensor:
    """Affinity of CoTNet's local aggregation: a window of its own weights around every position.

    Dynamic as attention is, local as a convolution is: row i holds the k*k weights of position i in
    the columns of its neighbours, and 0 elsewhere.

    Args:
        weight (Tensor): (B, G, k*k, H, W), see :func:`mmcontainer.ops.local_aggregation`.
        kernel_size (int): Size k of the window.
        dilation (int): Distance between neighbouring taps.

    Returns:
        Tensor: (B, G, N, N); channel c of a map is aggregated with matrix c mod G.
    """
    height, width = weight.shape[-2:]
    # Entry (j, t, i): whether tap t of position i reads position j.
    taps = F.unfold(_one_hot_maps(height, width, weight, None), kernel_size, dilation,
                    padding=dilation * (kernel_size - 1) // 2)
    return torch.einsum(
        'bgti,jti->bgij', weight.flatten(3), taps.unflatten(1, (kernel_size**2, )))


def resize_affinity(matrix: Tensor,
                    grid_size: Sequence[int],
                    size: Sequence[int],
                    positions: Optional[Tensor] = None) -> Tensor:
    """Resize a static affinity from the map size it was learned at to another, bilinearly.

    A row belongs to a position of the output and is interpolated between the rows of the
    neighbouring grid positions, as any map is. A column belongs to a position of the input; its
    weight is spread over the positions around the same place, so that every row keeps its sum and
    a constant map is still mapped to the same constants.

    Args:
        matrix (Tensor): (M, N0, N0) with N0 the number of positions of ``grid_size``.
        grid_size (Sequence[int]): (height, width) at which the matrix was learned.
        size (Sequence[int]): (height, width) of the maps it is to be used on.
        positions (Tensor, optional): Indices (P, ) of the rows to build; all without it.

    Returns:
        Tensor: (M, P, N).
    """
    if positions is None:
        positions = torch.arange(size[0] * size[1], device=matrix.device)
    rows, columns = (resize_weights(old, new, matrix) for old, new in zip(grid_size, size))
    interpolate = torch.einsum(
        'ph,pw->phw', rows[positions // size[1]], columns[positions % size[1]]).flatten(1)
    # What resizing collects from position i of the input for grid position h, h spreads to i.
    rows, columns = (resize_weights(new, old, matrix) for old, new in zip(grid_size, size))
    weights = (interpolate @ matrix).unflatten(-1, tuple(grid_size))
    return torch.einsum('mphw,hi,wj->mpij', weights, rows, columns).flatten(-2)


def relative_bias(table: Tensor, grid_size: Sequence[int]) -> Tensor:
    """Biases of all pairs of positions.

    Args:
        table (Tensor): (M, 2H - 1, 2W - 1), bias of the offset (dy, dx) from key to query at
            [:, dy + H - 1, dx + W - 1].
        grid_size (Sequence[int]): (H, W).

    Returns:
        Tensor: (M, N, N).
    """
    height, width = grid_size
    y, x = (torch.arange(size, device=table.device) for size in (height, width))
    rows, columns = y[:, None] - y + height - 1, x[:, None] - x + width - 1
    index = rows[:, None, :, None] * (2 * width - 1) + columns[:, None]  # H, W, H, W
    positions = height * width
    return table.flatten(1)[:, index.reshape(-1)].reshape(-1, positions, positions)


def relative_affinity(query: Tensor, key: Tensor, table: Tensor,
                      grid_size: Sequence[int]) -> Tensor:
    """Affinity ``softmax(Q K^T / sqrt(D) + w_{i-j})`` of CoAtNet (arXiv 2106.04803, eq. 3).

    Args:
        query, key (Tensor): (B, M, N, D), positions row by row.
        table, grid_size: See :func:`relative_bias`.

    Returns:
        Tensor: (B, M, N, N); every row sums to one.
    """
    logits = query @ key.transpose(-2, -1) / query.shape[-1]**0.5
    return (logits + relative_bias(table, grid_size)).softmax(dim=-1)


def gaussian_bias(point: Tensor,
                  scale: Optional[Tensor],
                  grid_size: Sequence[int],
                  smooth: float = 8.) -> Tensor:
    """Log-Gaussian around the point of every query, section 3.2 of SMCA (arXiv 2101.07448).

    With dx, dy the distances of a position from the point, in cells::

        bias = -(s_x^2 dx^2 + s_y^2 dy^2 + s_xy^2 dx^2 dy^2) / smooth

    The last term is there only with three scales; it is the released code's fourth type, a product
    of squares and not a covariance.

    Args:
        point (Tensor): Points (B, M, L, 2) as (x, y) in cells of the feature map: the position in
            row r and column c is at x = c, y = r.
        scale (Tensor, optional): Scales (B, M, L, 2), or (B, M, L, 3), before they are squared.
            Without it they are 1.
        grid_size (Sequence[int]): (H, W) of the feature map.
        smooth (float): Divisor; the larger it is, the wider the Gaussian. ``math.inf`` switches it
            off.

    Returns:
        Tensor: (B, M, L, N) with N = H * W, to be added to the logits of attention.
    """
    height, width = grid_size
    # Not by dividing numbers of cells: the ONNX exporter of torch 2.12 cannot by an open size.
    columns = torch.arange(width, device=point.device).expand(height, -1)
    rows = torch.arange(height, device=point.device)[:, None].expand(-1, width)
    grid = torch.stack((columns, rows), dim=-1).flatten(0, 1).to(point.dtype)
    distance = (point[..., None, :] - grid).square()  # B M L N 2
    if scale is None:
        return -distance.sum(-1) / smooth
    if scale.shape[-1] == 3:
        distance = torch.cat((distance, distance.prod(-1, keepdim=True)), dim=-1)
    return -(distance * scale[..., None, :].square()).sum(-1) / smooth


def gaussian_affinity(query: Tensor,
                      key: Tensor,
                      point: Tensor,
                      scale: Optional[Tensor],
                      grid_size: Sequence[int],
                      smooth: float = 8.,
                      key_padding_mask: Optional[Tensor] = None) -> Tensor:
    """Affinity softmax(Q K^T / sqrt(D) + bias) of spatially modulated co-attention.

    Of :func:`mmcontainer.ops.gaussian_attention`, whose arguments it takes. A sample
    whose positions are all padding is treated as if none was.

    Args:
        query (Tensor): (B, M, L, D).
        key (Tensor): (B, M, N, D), positions row by row.
        point, scale, grid_size, smooth: See :func:`gaussian_bias`.
        key_padding_mask (Tensor, optional): (B, N) of bool, True where a position is padding.

    Returns:
        Tensor: (B, M, L, N); every row sums to one.
    """
    logits = query @ key.transpose(-2, -1) / query.shape[-1]**0.5
    logits = logits + gaussian_bias(point, scale, grid_size, smooth)
    if key_padding_mask is not None:
        logits = logits + padding_bias(key_padding_mask, logits.dtype)[:, None, None]
    return logits.softmax(dim=-1)


def multi_scale_gaussian_affinity(query: Tensor,
                                  key: Tensor,
                                  point: Tensor,
                                  scale: Optional[Tensor],
                                  group_weight: Tensor,
                                  grid_sizes: Sequence[Sequence[int]],
                                  smooths: Sequence[float],
                                  key_padding_mask: Optional[Tensor] = None) -> Tensor:
    """Affinity of modulated attention to several maps: a softmax in each, times its weight.

    Of :func:`mmcontainer.ops.multi_scale_gaussian_attention`, whose arguments it takes.

    Args:
        query (Tensor): (B, M, L, D).
        key (Tensor): (B, M, S, D), the positions of one map after those of the other.
        point, scale, group_weight, grid_sizes, smooths, key_padding_mask: See there.

    Returns:
        Tensor: (B, M, L, S); every row sums to what the weights of the maps sum to.
    """
    groups = split_groups(key, point, scale, grid_sizes, smooths, key_padding_mask)
    return torch.cat([weight[:, None, :, None] * gaussian_affinity(query, *group)
                      for weight, group in zip(group_weight.unbind(-1), groups)], dim=-1)


def split_groups(key: Tensor, point: Tensor, scale: Optional[Tensor],
                 grid_sizes: Sequence[Sequence[int]], smooths: Sequence[float],
                 key_padding_mask: Optional[Tensor]) -> list[tuple]:
    """Arguments of :func:`gaussian_affinity` after the query, for every map of several."""
    sizes = [height * width for height, width in grid_sizes]
    none = [None] * len(sizes)
    masks = none if key_padding_mask is None else key_padding_mask.split(sizes, dim=1)
    return list(zip(key.split(sizes, dim=2), point, none if scale is None else scale, grid_sizes,
                    smooths, masks))


def padding_bias(key_padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 at valid positions and PADDING_LOGIT at padding, in the shape of the mask (B, N).

    A sample of padding alone keeps 0 everywhere: no form of attention has a result for it, and in
    this way all agree on one that is finite and has gradients.
    """
    key_padding_mask = key_padding_mask & ~key_padding_mask.all(dim=-1, keepdim=True)
    return torch.zeros_like(key_padding_mask, dtype=dtype).masked_fill(
        key_padding_mask, PADDING_LOGIT)


def mixed_affinity(dynamic: Tensor,
                   static: Tensor,
                   alpha: Tensor,
                   beta: Optional[Tensor] = None) -> Tensor:
    """Mixture ``alpha * A_dynamic(X) + beta * A_static`` of equation (9).

    Args:
        dynamic (Tensor): Attention affinity (B, M, N, N).
        static (Tensor): Static affinity (S, N, N); of M and S one must be a multiple of the other.
        alpha (Tensor): Share of the dynamic affinity, one value.
        beta (Tensor, optional): Share of the static affinity, one value; 1 - alpha without it.

    Returns:
        Tensor: (B, max(M, S), N, N).
    """
    heads = max(dynamic.shape[1], static.shape[0])
    dynamic = dynamic.repeat_interleave(heads // dynamic.shape[1], dim=1)
    static = static.repeat_interleave(heads // static.shape[0], dim=0)
    return alpha * dynamic + (1 - alpha if beta is None else beta) * static


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


def _one_hot_maps(height: int, width: int, like: Tensor, positions: Optional[Tensor]) -> Tensor:
    """Maps (P, 1, height, width) that are 1 at one position each, in the dtype of ``like``."""
    if positions is None:
        positions = torch.arange(height * width, device=like.device)
    maps = like.new_zeros(len(positions), height * width)
    maps.scatter_(1, positions[:, None], 1)
    return maps.view(-1, 1, height, width)
