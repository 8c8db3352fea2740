"""Equation (9) of the Container paper as a module."""
from typing import Optional

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..ops import depthwise_aggregation, mix, self_attention


class ContextAggregation(BaseModule):
    """Mixture of a dynamic and a static affinity on the same values.

    ::

        Y = (alpha * softmax(Q K^T / sqrt(D)) + (1 - alpha) * A_depthwise) V W2,  alpha = sigmoid(w)

             +-- in_proj --> q, k --> attention -----+
        x ---|                          |            mix --> out_proj --> y
             +-- in_proj --> v ---------+-- static --+

    Without heads there is no dynamic affinity: ``Y = A_depthwise V W2`` (Container-Light's first
    three stages). The residual ``+ X`` belongs to the block that holds this module.

    Args:
        embed_dims (int): Channels C.
        kernel_size (int): Odd size of the depth-wise kernel of the static affinity.
        num_heads (int, optional): Heads of the dynamic affinity; None for a static one only.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims`` or the kernel is even.

    Shapes: (B, C, H, W) -> (B, C, H, W). Source: arXiv 2106.01401, equations (4), (5) and (9).
    """

    def __init__(self,
                 embed_dims: int,
                 kernel_size: int = 5,
                 num_heads: Optional[int] = None,
                 init_cfg=None):
        super().__init__(init_cfg)
        if num_heads and embed_dims % num_heads:
            raise ValueError(f'embed_dims ({embed_dims}) must be a multiple of num_heads '
                             f'({num_heads}).')
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd to keep the map size, got {kernel_size}.')
        self.num_heads = num_heads
        self.in_proj = nn.Conv2d(embed_dims, (3 if num_heads else 1) * embed_dims, 1)
        self.static = nn.Conv2d(
            embed_dims, embed_dims, kernel_size, padding=kernel_size // 2, groups=embed_dims)
        if num_heads:
            self.mix_logit = nn.Parameter(torch.zeros(1))
        self.out_proj = nn.Conv2d(embed_dims, embed_dims, 1)

    @property
    def alpha(self) -> Tensor:
        """Tensor: Share of the dynamic affinity, sigmoid of the learned logit, shape (1, )."""
        return self.mix_logit.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        if not self.num_heads:
            return self.out_proj(self._aggregate_static(x))
        query, key, value = x.chunk(3, dim=1)
        dynamic = self_attention(query, key, value, self.num_heads)
        return self.out_proj(mix(dynamic, self._aggregate_static(value), self.alpha))

    def _aggregate_static(self, value: Tensor) -> Tensor:
        return depthwise_aggregation(value, self.static.weight, self.static.bias)
