"""The Container family (arXiv 2106.01401) as multi-scale backbones."""
from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import Optional, Union

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import (
    ContainerBlock,
    ContextAggregation,
    DenseTokenAffinity,
    PatchEmbed,
    PositionTable,
    TokenAttention,
    TokenBlock,
    TokenEmbed,
    build_static_affinity,
)
from ..layers.memory_format import as_output
from .arch import of_stage, resolve_arch
from .base import BaseBackbone
from .container_archs import CONTAINER_ARCHS, CONTAINER_DEFAULTS


class ContainerStage(BaseModule):
    """Patch embedding, position table if there is one, and the blocks of one stage.

    Shapes: (B, C_in, H, W) -> (B, C, H // p, W // p).
    """

    def __init__(self, patch_embed: nn.Module, pos_table: Optional[nn.Module],
                 blocks: Sequence[nn.Module]):
        super().__init__()
        self.patch_embed = patch_embed
        self.pos_table = pos_table
        self.blocks = ModuleList(blocks)

    def stem_modules(self) -> list[nn.Module]:
        return [self.patch_embed] + ([] if self.pos_table is None else [self.pos_table])

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        if self.pos_table is not None:
            x = self.pos_table(x)
        for block in self.blocks:
            x = block(x)
        return x


class TokenStage(BaseModule):
    """Embedding and blocks of a transformer on a class token and a grid.

    Shapes: (B, C_in, H, W) -> tokens (B, 1 + N, C) and the grid's size (H // p, W // p).
    """

    def __init__(self, patch_embed: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = ModuleList(blocks)

    def stem_modules(self) -> list[nn.Module]:
        return [self.patch_embed]

    def forward(self, x: Tensor) -> tuple[Tensor, Sequence[int]]:
        x, size = self.patch_embed(x)
        for block in self.blocks:
            x = block(x, size)
        return x, size


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
    at the resolution of their own grid. 'pam' has a single stage of stride 16.

    Args:
        arch (str | dict): Name of a row of ``arch_settings`` or a dict with the same keys.
            'light' is the released ImageNet model (20.6 M with classifier), 'light-paper' has the
            size of the paper's tables (20.0 M), 'base' is Container itself, with both affinities
            in every stage (22.1 M).
        in_channels (int): Channels of the input image.
        out_indices (Sequence[int], optional): Stages to return, all of them by default.
        frozen_stages (int): -1 nothing; 0 the first patch embedding (and position table); k that
            and stages 1 ... k.
        drop_path_rate (float): Drop-path rate of the last block; grows linearly from 0.
        norm_cfg (dict): Config of the batch norms; ``requires_grad=False`` freezes affine
            parameters and statistics. 'pam' has layer norms instead, which it does not concern.
        norm_eval (bool): Keep batch norms in evaluation mode during training.
        with_cp (bool): Recompute activations in the backward pass to save memory.
        final_norm (bool): Apply the classifier's last norm to the output of the last stage.
        kv_stride (int | Sequence[int]): Average keys and values of the dynamic affinity over
            windows of this size, which divides its time by the square; one value for all stages
            that have it, or one per stage. 1, the paper's form, averages nothing
            (``docs/container_family.md`` has measurements).
        out_type (str): 'featmap', or 'cls_token' to get ((B, C), ) from an arch that has a class
            token.
        init_cfg (dict, optional): Initialisation config, see ``StrictPretrained``.

    Raises:
        ValueError: Unknown or incomplete ``arch``, bad ``out_indices``, ``frozen_stages``,
            ``kv_stride`` or ``out_type``; in ``forward``, images smaller than the last stride.

    Examples:
        >>> import torch
        >>> from mmcontainer.backbones import Container
        >>> model = Container('light-paper').eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    arch_settings = CONTAINER_ARCHS

    def __init__(self,
                 arch: Union[str, dict] = 'light',
                 in_channels: int = 3,
                 out_indices: Optional[Sequence[int]] = None,
                 frozen_stages: int = -1,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict = dict(type='BN'),  # noqa: B006
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 final_norm: bool = False,
                 kv_stride: Union[int, Sequence[int]] = 1,
                 out_type: str = 'featmap',
                 init_cfg=None):
        arch = resolve_arch(
            arch, self.arch_settings, type(self).__name__, CONTAINER_DEFAULTS)
        strides = list(accumulate(arch['patch_sizes'], mul))
        super().__init__(strides, out_indices, frozen_stages, norm_cfg, norm_eval, in_channels,
                         drop_path_rate, init_cfg)
        self.arch = arch
        self.norm_cfg = norm_cfg
        self.with_cp = with_cp
        _check_arch(arch, strides)
        self._check_out_type(out_type)
        self.out_type = out_type
        self.kv_strides = _resolve_kv_stride(kv_stride, arch)
        rates = torch.linspace(0, drop_path_rate, sum(arch['depths'])).split(arch['depths'])
        dims = (in_channels, *arch['embed_dims'])
        build_stage = self._build_token_stage if arch['cls_token'] else self._build_stage
        self.stages = ModuleList(
            build_stage(i, dims[i], rates[i].tolist()) for i in range(len(strides)))
        self.norm = None
        if final_norm and arch['cls_token']:
            self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        elif final_norm:
            self.norm = build_norm_layer(norm_cfg, dims[-1])[1]
        self.freeze()

    def _check_out_type(self, out_type: str) -> None:
        allowed = ('featmap', 'cls_token') if self.arch['cls_token'] else ('featmap', )
        if out_type not in allowed:
            raise ValueError(f'out_type must be {" or ".join(map(repr, allowed))} for this arch, '
                             f'got {out_type!r}.')

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
                norm_cfg=self.norm_cfg,
                with_cp=self.with_cp) for rate in rates])

    def _build_token_stage(self, stage: int, in_channels: int,
                           rates: Sequence[float]) -> nn.Module:
        row = {key: of_stage(entry, stage) for key, entry in self.arch.items()}
        dims, heads = row['embed_dims'], row['num_heads']
        grid_size = (row['image_size'] // self.strides[stage], ) * 2

        def build_attention() -> nn.Module:
            static = DenseTokenAffinity(grid_size, heads) if row['static'] else None
            return TokenAttention(dims, heads, static)

        return TokenStage(
            TokenEmbed(in_channels, dims, row['patch_sizes'], grid_size),
            [TokenBlock(build_attention(), dims, row['mlp_ratios'], rate, self.with_cp)
             for rate in rates])

    def stem_modules(self) -> list[nn.Module]:
        return self.stages[0].stem_modules()

    def stage_modules(self, stage: int) -> list[nn.Module]:
        return [self.stages[stage]]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, C, H, W) to the chosen stages' maps (B, C_i, H / s_i, W / s_i)."""
        self.check_input(x)
        if self.arch['cls_token']:
            return (self._forward_tokens(x), )
        outs = []
        for i in range(self.out_indices[-1] + 1):
            x = self.stages[i](x)
            if i == len(self.stages) - 1 and self.norm is not None:
                x = self.norm(x)
            if i in self.out_indices:
                outs.append(as_output(x))
        return tuple(outs)

    def _forward_tokens(self, x: Tensor) -> Tensor:
        tokens, size = self.stages[0](x)
        if self.norm is not None:
            tokens = self.norm(tokens)
        if self.out_type == 'cls_token':
            return tokens[:, 0]
        return tokens[:, 1:].transpose(1, 2).unflatten(2, size)  # B N C -> B C H W


def _check_arch(arch: dict, strides: Sequence[int]) -> None:
    """Raise a ValueError for a row whose entries do not go together."""
    if arch['pos_embed'] not in ('conv', 'table'):
        raise ValueError(f"pos_embed of an arch must be 'conv' or 'table', "
                         f"got {arch['pos_embed']!r}.")
    if arch['image_size'] % strides[-1]:
        raise ValueError(f"image_size of an arch must be a multiple of its last stride "
                         f"({strides[-1]}), got {arch['image_size']}.")
    if arch['cls_token'] and (len(strides), arch['pos_embed']) != (1, 'table'):
        raise ValueError("An arch with a class token has one stage and pos_embed='table', got "
                         f"{len(strides)} stages and {arch['pos_embed']!r}.")
    if arch['cls_token'] and (arch['static'] or {'kind': 'dense'}) != {'kind': 'dense'}:
        raise ValueError("The static affinity of an arch with a class token is dict(kind='dense') "
                         f"or None, got {arch['static']}.")


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
    if any(stride > 1 and (not head or arch['cls_token']) for stride, head in zip(strides, heads)):
        raise ValueError('kv_stride pools keys and values of a dynamic affinity on a map, which '
                         f'not every stage of this arch has (num_heads={heads}); got {kv_stride}.')
    return strides


@MODELS.register_module()
class ContainerLight(Container):
    """:class:`Container` with ``arch='light'``: dynamic affinity in the last stage only."""
