"""Equation (9) of the Container paper as a module."""
from typing import NamedTuple, Optional

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..ops import attention_affinity, mix, mixed_affinity, self_attention


class AffinityMatrices(NamedTuple):
    """Rows of explicit affinity matrices, for P chosen positions of N.

    Attributes:
        dynamic (Tensor, optional): (B, M, P, N); None without dynamic affinity.
        static (Tensor, optional): (S, P, N); None without static affinity.
        mixed (Tensor): (B, L, P, N), what acts on the values.
    """
    dynamic: Optional[Tensor]
    static: Optional[Tensor]
    mixed: Tensor


class ContextAggregation(BaseModule):
    """Mixture of a dynamic and a static affinity on the same values.

    ::

        Y = (alpha * softmax(Q K^T / sqrt(D)) + (1 - alpha) * A_static) V W2,  alpha = sigmoid(w)

             +-- in_proj --> q, k --> attention -----+
        x ---|                          |            mix --> out_proj --> y
             +-- in_proj --> v ---------+-- static --+

    With one of the two affinities only, that one acts alone: ``Y = A_static V W2`` is
    Container-Light's first three stages, ``Y = softmax(...) V W2`` self-attention. The residual
    ``+ X`` belongs to the block that holds this module.

    Args:
        embed_dims (int): Channels C.
        num_heads (int, optional): Heads of the dynamic affinity; None for none.
        static (nn.Module, optional): Static affinity, maps (B, C, H, W) to the same shape; see
            :mod:`mmcontainer.layers.static_affinity`. None for none.
        kv_stride (int): Average the keys and values of the dynamic affinity over windows of this
            size. 1 is the paper's form; r divides time by r^2.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``, or there is neither a dynamic
            nor a static affinity.

    Shapes: (B, C, H, W) -> (B, C, H, W). Source: arXiv 2106.01401, equations (4), (5) and (9).
    """

    def __init__(self,
                 embed_dims: int,
                 num_heads: Optional[int] = None,
                 static: Optional[nn.Module] = None,
                 kv_stride: int = 1,
                 init_cfg=None):
        super().__init__(init_cfg)
        if num_heads and embed_dims % num_heads:
            raise ValueError(f'embed_dims ({embed_dims}) must be a multiple of num_heads '
                             f'({num_heads}).')
        if not num_heads and static is None:
            raise ValueError('Context aggregation needs a dynamic affinity (num_heads), a static '
                             'one, or both; got neither.')
        self.num_heads = num_heads
        self.kv_stride = kv_stride
        self.in_proj = nn.Conv2d(embed_dims, (3 if num_heads else 1) * embed_dims, 1)
        self.static = static
        if num_heads and static is not None:
            self.mix_logit = nn.Parameter(torch.zeros(1))
        self.out_proj = nn.Conv2d(embed_dims, embed_dims, 1)

    @property
    def alpha(self) -> Tensor:
        """Tensor: Share of the dynamic affinity, (1, ): learned for a mixture, else 1 or 0."""
        if self.num_heads and self.static is not None:
            return self.mix_logit.sigmoid()
        return self.out_proj.bias.new_full((1, ), 1. if self.num_heads else 0.)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.aggregate(self.in_proj(x)))

    def aggregate(self, projected: Tensor) -> Tensor:
        """Mix the positions of what ``in_proj`` gives, to (B, C, H, W)."""
        if not self.num_heads:
            return self.static(projected)
        query, key, value = projected.chunk(3, dim=1)
        out = self_attention(query, key, value, self.num_heads, self.kv_stride)
        return out if self.static is None else mix(out, self.static(value), self.alpha)

    def affinities(self, x: Tensor, positions: Optional[Tensor] = None) -> AffinityMatrices:
        """Build the affinity matrices that ``forward`` never builds.

        Args:
            x (Tensor): Input (B, C, H, W) of this module.
            positions (Tensor, optional): Indices (P, ), row by row, of the positions whose rows
                are wanted; all N without it, which takes memory quadratic in N.

        Raises:
            TypeError: If the static part is a convolution that mixes channels, which no affinity
                matrix describes.
        """
        if self.static is not None and not hasattr(self.static, 'affinity'):
            raise TypeError(f'{type(self.static).__name__} mixes channels: there is no affinity '
                            'matrix that it applies to every channel.')
        static = None
        if self.static is not None:
            static = self.static.affinity(*x.shape[-2:], positions)
        if not self.num_heads:
            return AffinityMatrices(None, static, static.expand(len(x), *static.shape))
        query, key, _ = self.in_proj(x).chunk(3, dim=1)
        dynamic = attention_affinity(query, key, self.num_heads, self.kv_stride, positions)
        mixed = dynamic if static is None else mixed_affinity(dynamic, static, self.alpha)
        return AffinityMatrices(dynamic, static, mixed)
