"""DeiT's parts: class token and position embedding, and the transformer block."""
from collections.abc import Sequence

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from .position_table import PositionTable


class TokenEmbed(BaseModule):
    """Image to tokens: patches, a class token in front of them, and positions added to both.

    Args:
        in_channels (int): Channels of the image.
        embed_dims (int): Channels C of a token.
        patch_size (int): Side of a patch; rows and columns that do not fill one are dropped.
        grid_size (Sequence[int]): (height, width) of the learned position table.
        init_cfg (dict, optional): Initialisation config.

    Shapes: (B, in_channels, H, W) -> tokens (B, 1 + N, C) and the size (H // p, W // p) of the
    grid of N positions.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int,
                 grid_size: Sequence[int], init_cfg=None):
        super().__init__(init_cfg)
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)
        self.pos_table = PositionTable(embed_dims, grid_size)
        # The class token's own position vector is a part of it: only their sum has any effect.
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dims))
        trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Sequence[int]]:
        x = self.pos_table(self.proj(x))
        tokens = x.flatten(2).transpose(1, 2)  # B C H W -> B N C
        cls_token = self.cls_token.to(x.dtype).expand(x.shape[0], -1, -1)
        return torch.cat((cls_token, tokens), dim=1), x.shape[-2:]


class TokenBlock(BaseModule):
    """Pre-norm transformer block, as in DeiT (arXiv 2012.12877).

    Args:
        attention (nn.Module): :class:`TokenAttention`.
        embed_dims (int): Channels C.
        mlp_ratio (float): Hidden channels of the MLP over C.
        drop_path_rate (float): Probability to drop a branch of one sample during training.
        init_cfg (dict, optional): Initialisation config.

    Shapes: (B, L, C) -> (B, L, C).
    """

    def __init__(self,
                 attention: nn.Module,
                 embed_dims: int,
                 mlp_ratio: float = 4.,
                 drop_path_rate: float = 0.,
                 init_cfg=None):
        super().__init__(init_cfg)
        hidden_dims = int(embed_dims * mlp_ratio)
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attention = attention
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dims, hidden_dims), nn.GELU(), nn.Linear(hidden_dims, embed_dims))
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))
