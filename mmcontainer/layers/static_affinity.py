"""Static affinities: how a position collects from the others, the same for every image.

Every class maps values (B, C, H, W) to (B, C, H, W), and those that are affinities in the sense of
the Container paper (arXiv 2106.01401, section 3.2) also give their matrix.
"""
import inspect
import math
from collections.abc import Sequence
from typing import Optional

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from ..ops import (
    at_grid_size,
    dense_aggregation,
    depthwise_affinity,
    depthwise_aggregation,
    low_rank_aggregation,
    merge_heads,
    resize_affinity,
    split_heads,
)


def _check_heads(embed_dims: int, num_heads: int) -> None:
    if not isinstance(num_heads, int) or num_heads < 1 or embed_dims % num_heads:
        raise ValueError(f'embed_dims ({embed_dims}) must be a multiple of num_heads '
                         f'({num_heads}).')


def _check_kernel(kernel_size: int) -> None:
    if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f'kernel_size must be odd to keep the map size, got {kernel_size!r}.')


class DepthwiseAffinity(BaseModule):
    """Depth-wise convolution, equation (5): local, and the same at every position.

    Args:
        embed_dims (int): Channels C.
        kernel_size (int): Odd size k of the kernels.
        num_heads (int, optional): Number of kernels M, each shared by C / M neighbouring channels;
            one per channel without it.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims`` or the kernel is even.
    """

    def __init__(self, embed_dims: int, kernel_size: int, num_heads: Optional[int] = None,
                 init_cfg=None):
        super().__init__(init_cfg)
        num_heads = embed_dims if num_heads is None else num_heads
        _check_heads(embed_dims, num_heads)
        _check_kernel(kernel_size)
        self.head_dim = embed_dims // num_heads
        self.weight = nn.Parameter(torch.empty(num_heads, 1, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(embed_dims))
        # PyTorch's default for a depth-wise convolution, which the official code keeps.
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -1 / kernel_size, 1 / kernel_size)

    def forward(self, value: Tensor) -> Tensor:
        return depthwise_aggregation(value, self.weight, self.bias, self.head_dim)

    def affinity(self, height: int, width: int, positions: Optional[Tensor] = None) -> Tensor:
        """Rows of the explicit matrix, (M, P, N); the bias is no part of it."""
        return depthwise_affinity(self.weight, height, width, positions)


class _GridAffinity(BaseModule):
    """Affinity learned for one map size, on any other by bilinear resizing of its matrix.

    See :func:`mmcontainer.ops.resize_affinity` for what that means.
    """

    def __init__(self, embed_dims: int, grid_size: Sequence[int], num_heads: int, init_cfg=None):
        super().__init__(init_cfg)
        _check_heads(embed_dims, num_heads)
        self.grid_size = tuple(grid_size)
        self.num_heads = num_heads

    def forward(self, value: Tensor) -> Tensor:
        return at_grid_size(self._aggregate_map, value, self.grid_size)

    def _aggregate_map(self, value: Tensor) -> Tensor:
        tokens = self.aggregate(split_heads(value, self.num_heads))
        return merge_heads(tokens, *self.grid_size)

    def aggregate(self, tokens: Tensor) -> Tensor:
        """Aggregate tokens (B, M, N0, D) of the grid size."""
        raise NotImplementedError

    def matrix(self) -> Tensor:
        """The learned affinity at its own grid size, (M, N0, N0)."""
        raise NotImplementedError

    def affinity(self, height: int, width: int, positions: Optional[Tensor] = None) -> Tensor:
        """Rows of the explicit matrix, (M, P, N)."""
        matrix = self.matrix()
        if (height, width) != self.grid_size:
            return resize_affinity(matrix, self.grid_size, (height, width), positions)
        return matrix if positions is None else matrix[:, positions]


class DenseAffinity(_GridAffinity):
    """One learned N0 x N0 matrix per head: MLP-Mixer's (M = 1) and its multi-head form.

    Args:
        embed_dims (int): Channels C.
        grid_size (Sequence[int]): (height, width) of the map that the matrix is learned for.
        num_heads (int): Number of matrices M, each for C / M neighbouring channels.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(self, embed_dims: int, grid_size: Sequence[int], num_heads: int = 1,
                 init_cfg=None):
        super().__init__(embed_dims, grid_size, num_heads, init_cfg)
        self.weight = nn.Parameter(torch.empty(num_heads, *[math.prod(grid_size)] * 2))
        trunc_normal_(self.weight, std=0.02)

    def aggregate(self, tokens: Tensor) -> Tensor:
        return dense_aggregation(tokens, self.weight)

    def matrix(self) -> Tensor:
        return self.weight


class LowRankAffinity(_GridAffinity):
    """Like :class:`DenseAffinity`, with each matrix a product (N0 x R)(R x N0).

    Args:
        embed_dims (int): Channels C.
        grid_size (Sequence[int]): (height, width) of the map that the matrices are learned for.
        rank_ratio (float): R / N0.
        num_heads (int): Number of matrices M, each for C / M neighbouring channels.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``, or ``rank_ratio`` is not above
            0 and up to 1.
    """

    def __init__(self, embed_dims: int, grid_size: Sequence[int], rank_ratio: float,
                 num_heads: int = 1, init_cfg=None):
        super().__init__(embed_dims, grid_size, num_heads, init_cfg)
        if not isinstance(rank_ratio, (int, float)) or not 0 < rank_ratio <= 1:
            raise ValueError('rank_ratio must be a number above 0 and up to 1, got '
                             f'{rank_ratio!r}.')
        positions = math.prod(grid_size)
        rank = max(1, int(rank_ratio * positions))
        self.left = nn.Parameter(torch.empty(num_heads, positions, rank))
        self.right = nn.Parameter(torch.empty(num_heads, rank, positions))
        for parameter in (self.left, self.right):
            trunc_normal_(parameter, std=0.02)

    def aggregate(self, tokens: Tensor) -> Tensor:
        return low_rank_aggregation(tokens, self.left, self.right)

    def matrix(self) -> Tensor:
        return self.left @ self.right


class GroupedConvolution(nn.Conv2d):
    """Ordinary or grouped convolution in the place of an affinity.

    It mixes the channels of a group as it collects, so that, unlike a depth-wise convolution, it is
    not of the form A V; the paper's Table 2 compares against it.

    Args:
        embed_dims (int): Channels C.
        kernel_size (int): Odd size of the kernel.
        groups (int): Number of groups.

    Raises:
        ValueError: If ``groups`` does not divide ``embed_dims`` or the kernel is even.
    """

    def __init__(self, embed_dims: int, kernel_size: int, groups: int = 1):
        _check_kernel(kernel_size)
        if not isinstance(groups, int) or groups < 1 or embed_dims % groups:
            raise ValueError(f'embed_dims ({embed_dims}) must be a multiple of groups ({groups}).')
        super().__init__(
            embed_dims, embed_dims, kernel_size, padding=kernel_size // 2, groups=groups)


def build_static_affinity(kind: str, embed_dims: int, grid_size: Sequence[int],
                          **kwargs) -> nn.Module:
    """Build a static affinity by name.

    Args:
        kind (str): 'depthwise', 'conv', 'dense' or 'low-rank'.
        embed_dims (int): Channels.
        grid_size (Sequence[int]): Map size for those that are learned for one.
        **kwargs: Further arguments of the class.

    Raises:
        ValueError: Unknown name, or arguments that the class does not have, or lacks.
    """
    classes = {'depthwise': DepthwiseAffinity, 'conv': GroupedConvolution,
               'dense': DenseAffinity, 'low-rank': LowRankAffinity}
    if not isinstance(kind, str) or kind not in classes:
        raise ValueError(f"Unknown static affinity {kind!r}; expected 'depthwise', 'conv', 'dense' "
                         "or 'low-rank'.")
    args = (embed_dims, ) if kind in ('depthwise', 'conv') else (embed_dims, grid_size)
    try:
        inspect.signature(classes[kind]).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f'static affinity {kind!r} with {kwargs}: {error}.') from error
    return classes[kind](*args, **kwargs)
