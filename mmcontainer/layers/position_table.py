"""Learned absolute position embedding."""
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from ..ops import resize_map


class PositionTable(BaseModule):
    """Add a learned map to the features: one vector for every position.

    For maps of another size than the table's, the table is resized bilinearly: the same relative
    place in the image keeps the same vector, whatever the image's size and aspect ratio.

    Args:
        embed_dims (int): Channels C.
        grid_size (Sequence[int]): (height, width) of the table.
        init_cfg (dict, optional): Initialisation config.

    Shapes: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, embed_dims: int, grid_size: Sequence[int], init_cfg=None):
        super().__init__(init_cfg)
        self.table = nn.Parameter(torch.empty(1, embed_dims, *grid_size))
        trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + resize_map(self.table, x.shape[-2:]).to(x.dtype)
