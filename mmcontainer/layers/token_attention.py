"""Container-PAM: DeiT's attention over a class token and a grid, plus a static affinity."""
import math
from collections.abc import Sequence
from typing import Optional

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from ..ops import dense_aggregation, fused_attention, merge_heads, resize_map, split_heads
from .context_aggregation import AffinityMatrices


class DenseTokenAffinity(BaseModule):
    """Learned static affinity of a class token and the positions of a grid, one matrix per head.

    For a grid of another size the part between grid positions is resized bilinearly
    (:func:`mmcontainer.ops.resize_affinity`); so are, along the grid, the row and the column of the
    class token.

    Args:
        grid_size (Sequence[int]): (height, width) of the grid that the matrices are learned for.
        num_heads (int): Number of matrices M.
        init_cfg (dict, optional): Initialisation config.
    """

    def __init__(self, grid_size: Sequence[int], num_heads: int, init_cfg=None):
        super().__init__(init_cfg)
        self.grid_size = tuple(grid_size)
        tokens = 1 + math.prod(grid_size)
        self.weight = nn.Parameter(torch.empty(num_heads, tokens, tokens))
        # The standard deviation of 1 is what the published code draws with.
        trunc_normal_(self.weight, std=1.)

    def forward(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        """Aggregate tokens (B, M, 1 + N, D), the class token first, of a grid of this size."""
        if not torch.jit.is_tracing() and tuple(size) == self.grid_size:
            return dense_aggregation(tokens, self.weight)
        tokens = self._resize_grid(tokens, size, self.grid_size)
        return self._resize_grid(dense_aggregation(tokens, self.weight), self.grid_size, size)

    @staticmethod
    def _resize_grid(tokens: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
        grid = resize_map(merge_heads(tokens[:, :, 1:], *old), new)
        return torch.cat((tokens[:, :, :1], split_heads(grid, tokens.shape[1])), dim=2)

    def affinity(self, size: Sequence[int], positions: Optional[Tensor] = None) -> Tensor:
        """Rows (M, P, 1 + N) of the explicit matrix of what ``forward`` does.

        Args:
            size (Sequence[int]): (height, width) of the grid.
            positions (Tensor, optional): Indices (P, ) of tokens; all without it.
        """
        tokens = 1 + math.prod(size)
        if positions is None:
            positions = torch.arange(tokens, device=self.weight.device)
        shape = len(positions), self.weight.shape[0], tokens, 1
        with torch.enable_grad():
            given = self.weight.new_zeros(shape).requires_grad_()
            out = self(given, size)
        # It is linear: a row is the gradient of one output. Its forward would give columns, all of
        # which a row needs, and the whole matrix takes gigabytes at detection size.
        one_hot = torch.zeros_like(out)
        one_hot[torch.arange(len(positions)), :, positions] = 1
        rows, = torch.autograd.grad(out, given, one_hot)
        return rows.squeeze(-1).transpose(0, 1)


class TokenAttention(BaseModule):
    """Multi-head self-attention, optionally with a static affinity added after the softmax.

    ``Y = (softmax(Q K^T / sqrt(D)) + A_static) V W``: without A_static it is DeiT's, with it
    Container-PAM's (arXiv 2106.01401, section 3.3; the sum is taken as the published code does it,
    without alpha and beta, which A_static and V can absorb).

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads M.
        static (nn.Module, optional): :class:`DenseTokenAffinity`.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(self, embed_dims: int, num_heads: int, static: Optional[nn.Module] = None,
                 init_cfg=None):
        super().__init__(init_cfg)
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims ({embed_dims}) must be a multiple of num_heads '
                             f'({num_heads}).')
        self.num_heads = num_heads
        self.in_proj = nn.Linear(embed_dims, 3 * embed_dims)
        self.static = static
        self.out_proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Map tokens (B, 1 + N, C) of a grid of ``size`` to the same shape."""
        query, key, value = self._project(x)
        out = fused_attention(query, key, value)
        if self.static is not None:
            out = out + self.static(value, size)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        # B L (3 M D) -> three of B M L D
        return self.in_proj(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def affinities(self, x: Tensor, size: Sequence[int],
                   positions: Optional[Tensor] = None) -> AffinityMatrices:
        """Build the affinity matrices that ``forward`` never builds.

        Args:
            x (Tensor): Input (B, 1 + N, C) of this module.
            size (Sequence[int]): (height, width) of the grid.
            positions (Tensor, optional): Indices (P, ) of the tokens whose rows are wanted; 0 is
                the class token, 1 + i grid position i. All without it.
        """
        query, key, _ = self._project(x)
        static = self.static.affinity(size, positions) if self.static is not None else None
        if positions is not None:
            query = query[:, :, positions]
        dynamic = (query @ key.transpose(-2, -1) / query.shape[-1]**0.5).softmax(dim=-1)
        return AffinityMatrices(dynamic, static, dynamic if static is None else dynamic + static)
