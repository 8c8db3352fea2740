"""The Container family (arXiv 2106.01401) as multi-scale backbones."""
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import Any, Optional, Union

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import (
    ContainerBlock,
    ContextAggregation,
    PatchEmbed,
    PositionTable,
    build_static_affinity,
    recompute,
)
from .arch import of_stage
from .base import BaseBackbone
from .container_archs import CONTAINER_ARCHS, CONTAINER_DEFAULTS


class ContainerStage(BaseModule):
    """Patch embedding, position table if there is one, and the blocks of one stage.

    Shapes: (B, C_in, H, W) -> (B, C, H // p, W // p).
    """

    def __init__(self, patch_embed: nn.Module, pos_table: Optional[nn.Module],
                 blocks: Sequence[nn.Module], with_cp: bool = False):
        super().__init__()
        self.patch_embed = patch_embed
        self.pos_table = pos_table
        self.blocks = ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        if self.pos_table is not None:
            x = self.pos_table(x)
        # The loop stands here for no caller to hold the first map while the others are made.
        for block in self.blocks:
            x = recompute(block, x) if self.with_cp else block(x)
        return x


@MODELS.register_module()
class Container(BaseBackbone):
    r"""Container: Context Aggregation Network.

    ::

        image (B, 3, H, W)
          | patch embed /4, blocks   -> stage 0: ( 64, H/4,  W/4 )   static affinity
          | patch embed /2, blocks   -> stage 1: (128, H/8,  W/8 )   static affinity
          | patch embed /2, blocks   -> stage 2: (320, H/16, W/16)   static affinity
          | patch embed /2, blocks   -> stage 3: (512, H/32, W/32)   static + dynamic affinity

    Every division rounds down (partial patches are dropped), so the stride-4 map of a 33 x 65 image
    is 8 x 16. Any size from 32 x 32 works. In stage 3 every position attends to every other,
    padding included: an image padded in a batch gets other features than the image alone
    (``docs/numerics.md``).

    The other archs are the rows of the paper's Tables 1 and 2 and differ in their affinities
    (:mod:`mmcontainer.backbones.container_archs`). Their position tables and static N x N matrices
    are learned for 224 x 224 images; for other sizes they are resized bilinearly, so that the same
    relative place in the image keeps its position vector and its weights, and the matrices collect
    at the resolution of their own grid.

    Args:
        arch (str | dict): Name of a row of ``arch_settings`` or a dict with the same keys.
            'light' is the released ImageNet model (20.6 M with classifier), 'light-paper' has the
            size of the paper's tables (20.0 M), 'base' is Container itself, with both affinities
            in every stage (22.1 M).
        kv_stride (int | Sequence[int]): Average keys and values of the dynamic affinity over
            windows of this size, which divides its time by the square; one value for all stages
            that have it, or one per stage. 1, the paper's form, averages nothing
            (``docs/container_family.md`` has measurements).
        *args, **kwargs: See :class:`BaseBackbone`. With ``frozen_stages=0`` the first patch
            embedding and position table are frozen.

    Raises:
        ValueError: Unknown or incomplete ``arch``, bad ``kv_stride``; see :class:`BaseBackbone`.

    Examples:
        >>> import torch
        >>> from mmcontainer.backbones import Container
        >>> model = Container('light-paper').eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    arch_settings = CONTAINER_ARCHS
    arch_defaults = CONTAINER_DEFAULTS
    default_arch = 'light'
    moved_archs = {'pam': 'ContainerPAM'}

    def __init__(self, *args, kv_stride: Union[int, Sequence[int]] = 1, **kwargs):
        super().__init__(*args, **kwargs)
        _check_arch(self.arch, self.strides)
        self.kv_strides = _resolve_kv_stride(kv_stride, self.arch)
        dims = (self.in_channels, *self.arch['embed_dims'])
        self.stages = ModuleList(self._build_stage(stage, dims[stage], rates)
                                 for stage, rates in enumerate(self.drop_path_rates()))
        self.finish()

    def strides_of(self, arch: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(accumulate(arch['patch_sizes'], mul))

    def build_final_norm(self) -> nn.Module:
        return build_norm_layer(self.norm_cfg, self.arch['embed_dims'][-1])[1]

    def _build_stage(self, stage: int, in_channels: int, rates: Sequence[float]) -> nn.Module:
        row = {key: of_stage(entry, stage) for key, entry in self.arch.items()}
        dims = row['embed_dims']
        grid_size = (row['image_size'] // self.strides[stage], ) * 2

        def build_aggregation() -> nn.Module:
            static = row['static'] and build_static_affinity(
                embed_dims=dims, grid_size=grid_size, **row['static'])
            return ContextAggregation(dims, row['num_heads'], static, self.kv_strides[stage])

        return ContainerStage(
            PatchEmbed(in_channels, dims, row['patch_sizes']),
            PositionTable(dims, grid_size) if row['pos_embed'] == 'table' else None,
            [ContainerBlock(
                build_aggregation(),
                dims,
                row['mlp_ratios'],
                conv_pos_embed=row['pos_embed'] == 'conv',
                drop_path_rate=rate,
                norm_cfg=self.norm_cfg) for rate in rates],
            with_cp=self.with_cp)

    def stem_modules(self) -> list[nn.Module]:
        first = self.stages[0]
        return [first.patch_embed] + ([] if first.pos_table is None else [first.pos_table])


def _check_arch(arch: dict, strides: Sequence[int]) -> None:
    """Raise a ValueError for a row whose entries do not go together."""
    if arch['pos_embed'] not in ('conv', 'table'):
        raise ValueError(f"pos_embed of an arch must be 'conv' or 'table', "
                         f"got {arch['pos_embed']!r}.")
    if arch['image_size'] % strides[-1]:
        raise ValueError(f"image_size of an arch must be a multiple of its last stride "
                         f"({strides[-1]}), got {arch['image_size']}.")


def _resolve_kv_stride(kv_stride: Union[int, Sequence[int]], arch: dict) -> tuple[int, ...]:
    """One stride per stage; ValueError where it makes no sense."""
    heads = arch['num_heads']
    if isinstance(kv_stride, Sequence):
        strides = tuple(kv_stride)
    else:
        strides = tuple(kv_stride if head or not any(heads) else 1 for head in heads)
    if len(strides) != len(heads) or not all(isinstance(r, int) and r >= 1 for r in strides):
        raise ValueError(f'kv_stride must be a positive integer, or {len(heads)} of them (one per '
                         f'stage), got {kv_stride!r}.')
    if any(stride > 1 and not head for stride, head in zip(strides, heads)):
        raise ValueError('kv_stride pools keys and values of a dynamic affinity on a map, which '
                         f'not every stage of this arch has (num_heads={heads}); got {kv_stride}.')
    return strides


@MODELS.register_module()
class ContainerLight(Container):
    """:class:`Container` with ``arch='light'``: dynamic affinity in the last stage only."""
