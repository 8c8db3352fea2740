"""Encoder and decoder of the released multi-scale SMCA-DETR, after the single-scale ones.

Shape legend: B images, L queries, H and W size of a feature map, C channels, M heads, G groups of
keys. N are the positions of all levels and S those of all groups, the finest first, row by row.
"""
from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from ..ops import multi_scale_gaussian_attention
from ..ops.explicit import split_groups
from ..ops.precision import without_autocast
from .smca_layers import SMCACrossAttention, SMCADecoder, SMCADecoderLayer, SMCAEncoder

# Strides of the levels of the encoder, in pixels.
STRIDES = (8, 16, 32, 64)
# Sides of a cell in the decoder's groups, over the reference stride: the finest level comes reduced
# to the size of the next.
GROUP_STRIDES = (0.5, 0.5, 1., 2.)
GROUP_NAMES = ('stride 8, reduced to 16', 'stride 16', 'stride 32', 'stride 64')


def split_levels(tokens: Tensor, grid_sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Tokens (B, N, C) of several levels as maps (B, C, H, W)."""
    parts = tokens.split([height * width for height, width in grid_sizes], dim=1)
    return [part.transpose(1, 2).unflatten(2, tuple(grid_size))
            for part, grid_size in zip(parts, grid_sizes)]


def join_levels(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, H, W) of several levels as tokens (B, N, C); the inverse of split_levels."""
    return torch.cat([part.flatten(2).transpose(1, 2) for part in maps], dim=1)


def cut_to(reduced: Tensor, size: Sequence[int]) -> Tensor:
    """Cut a map, reduced with stride 2, to the size of the next level.

    The reduction rounds a half up. Backbones that round it down have no cells for the last row or
    column of pixels, and so it is left out here.
    """
    return reduced[..., :size[0], :size[1]]


def check_halves(grid_sizes: Sequence[Sequence[int]]) -> None:
    """Raise ValueError unless each level has half the sides of the one before, up to rounding."""
    for finer, coarser in zip(grid_sizes, grid_sizes[1:]):
        if not all(2 * small - fine in (-1, 0, 1) for fine, small in zip(finer, coarser)):
            raise ValueError(
                'The multi-scale SMCA-DETR needs levels of which each has half the height and '
                f'width of the one before, found {finer[0]} x {finer[1]} and '
                f'{coarser[0]} x {coarser[1]} (height x width). Let the backbone give maps of '
                f'strides {", ".join(map(str, STRIDES[:-1]))}.')


class MultiScaleSMCAEncoderLayer(BaseModule):
    """Depth-wise convolutions in each level, exchange with its neighbours, and a common FFN.

    Point-wise layers and norms are shared by the levels. Padding counts like image: the released
    code has no mask here, and was trained with one image at a time.

    Args:
        embed_dims (int): Channels.
        kernel_size (int): Of all depth-wise convolutions: 7 in the model with AP 44.4, 5 in the
            file ``transformer.py`` of the release.
        shared_exchange (bool): Whether all pairs of levels share two convolutions, one down and one
            up (the model with AP 44.4), or each pair has its own.
        dropout (float): Probability of dropping a feature before the first residual sum.
        ffn_cfg (dict): Arguments of mmcv's ``FFN``.
        norm_cfg (dict, optional): Norm of channels; layer norm without it.
        init_cfg (dict, optional): Of MMEngine's ``BaseModule``.

    Raises:
        ValueError: An even kernel size.
    """

    def __init__(self, ffn_cfg: dict, embed_dims: int = 256, kernel_size: int = 7,
                 shared_exchange: bool = True, dropout: float = 0.1,
                 norm_cfg: Optional[dict] = None, init_cfg: Optional[dict] = None):
        super().__init__(init_cfg)
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, got {kernel_size}: with an even one maps '
                             'would change their size.')
        self.embed_dims = embed_dims

        def depthwise(stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(embed_dims, embed_dims, kernel_size, stride, kernel_size // 2,
                             groups=embed_dims)

        levels = [str(stride) for stride in STRIDES]
        self.conv_in, self.conv_out = (nn.Conv2d(embed_dims, embed_dims, 1) for _ in range(2))
        self.level_convs = nn.ModuleDict({level: depthwise() for level in levels})
        # By the level that they read.
        self.down_convs = nn.ModuleDict({
            level: depthwise(2) for level in (['shared'] if shared_exchange else levels[:-1])})
        self.up_convs = nn.ModuleDict({
            level: depthwise() for level in (['shared'] if shared_exchange else levels[1:])})
        self.dropout = nn.Dropout(dropout)
        self.ffn = FFN(**ffn_cfg)
        norm_cfg = norm_cfg or dict(type='LN')
        self.norms = ModuleList(build_norm_layer(norm_cfg, embed_dims)[1] for _ in range(2))

    def forward(self, query: Tensor, query_pos: Tensor, key_padding_mask: None = None, *,
                grid_sizes: Sequence[Sequence[int]]) -> Tensor:
        """Update the levels.

        Args:
            query, query_pos (Tensor): (B, N, C).
            key_padding_mask (None): Not used, see the class.
            grid_sizes (Sequence[Sequence[int]]): (H, W) of every level.

        Returns:
            Tensor: (B, N, C).
        """
        maps = [conv(self.conv_in(part)) for conv, part in zip(
            self.level_convs.values(), split_levels(query + query_pos, grid_sizes))]
        mixed = join_levels([self.conv_out(part) for part in self._exchange(maps)])
        query = self.norms[0](query + self.dropout(mixed))
        return self.norms[1](self.ffn(query))

    def _exchange(self, maps: list[Tensor]) -> list[Tensor]:
        """Add to each level what comes from its neighbours, none of which has been added to yet."""
        mixed = list(maps)
        down, up = (list(convs.values()) * ((len(maps) - 1) // len(convs))
                    for convs in (self.down_convs, self.up_convs))
        for i, (finer, coarser) in enumerate(zip(maps, maps[1:])):
            mixed[i] = mixed[i] + F.interpolate(
                up[i](coarser), finer.shape[-2:], mode='bilinear', align_corners=True)
            mixed[i + 1] = mixed[i + 1] + cut_to(down[i](finer), coarser.shape[-2:])
        return mixed


class MultiScaleSMCAEncoder(SMCAEncoder):
    """Encoder of convolutions over four levels.

    Args:
        num_layers (int): Number of layers.
        layer_cfg (dict): Arguments of :class:`MultiScaleSMCAEncoderLayer`.
        num_cp (int): How many layers are recomputed in the backward pass.
    """
    layer_class = MultiScaleSMCAEncoderLayer


class MultiScaleSMCACrossAttention(SMCACrossAttention):
    """Modulated attention to each group of keys by itself; the Gaussian is a group's own.

    The released code narrows it by the stride of the group: at scale 1 its standard deviation is
    45, 45, 64 and 91 pixels with the ``smooth`` of 8.
    """

    def attend(self, heads: list[Tensor], key_padding_mask, point: Tensor, scale,
               group_weight: Tensor, grid_sizes: Sequence[Sequence[int]]) -> Tensor:
        """See :func:`mmcontainer.ops.multi_scale_gaussian_attention`."""
        return multi_scale_gaussian_attention(
            *heads, point, scale, group_weight, grid_sizes, self._smooths(), key_padding_mask,
            self.attn.dropout if self.training else 0., self.form)

    def groups(self, key: Tensor, key_padding_mask, point: Tensor, scale, group_weight: Tensor,
               grid_sizes: Sequence[Sequence[int]]) -> list[tuple]:
        """See :meth:`SMCACrossAttention.groups`."""
        parts = split_groups(key, point, scale, grid_sizes, self._smooths(), key_padding_mask)
        return list(zip(GROUP_NAMES, group_weight.unbind(-1), parts))

    def _smooths(self) -> list[float]:
        return [self.smooth / stride for stride in GROUP_STRIDES]


class MultiScaleSMCADecoderLayer(SMCADecoderLayer):
    """SMCA's decoder layer with a point and a scale per group and head.

    A query also predicts how much it takes from each group, the same for all heads.

    Args:
        kwargs: Arguments of :class:`SMCADecoderLayer`.
    """
    attention_class = MultiScaleSMCACrossAttention
    num_groups = len(GROUP_STRIDES)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.group_weight = nn.Linear(self.embed_dims, self.num_groups)

    def split_heads(self, predicted: Tensor) -> Tensor:
        """What a linear layer predicts for all heads (B, L, G * M * n), as (G, B, M, L, n)."""
        groups = predicted.unflatten(-1, (self.num_groups, self.cross_attn.num_heads, -1))
        return groups.permute(2, 0, 3, 1, 4)

    def locate(self, normed: Tensor, reference: Tensor) -> tuple:
        """Predict where each head looks.

        Args:
            normed (Tensor): (B, L, C), see :meth:`normalize_query`.
            reference (Tensor): Points (G, B, L, 2) of the queries, (x, y) in cells of the group.

        Returns:
            tuple[Tensor, Tensor | None, Tensor]: Points (G, B, M, L, 2) in cells, scales
            (G, B, M, L, 2 or 3), and weights of the groups (B, L, G), which sum to 1.
        """
        with without_autocast(normed.device.type):
            group_weight = self.group_weight(normed).softmax(dim=-1)
        return (*super().locate(normed, reference), group_weight)


class MultiScaleSMCADecoder(SMCADecoder):
    """SMCA's decoder with keys of several maps.

    It takes ``cells`` as (G, B, 2), and as ``grid_size`` the (H, W) of every group.
    """
    layer_class = MultiScaleSMCADecoderLayer
