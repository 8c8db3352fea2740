"""CoAtNet (arXiv 2106.04803) as a multi-scale backbone for images of any size."""
from collections.abc import Sequence
from typing import Optional, Union

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList, Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..layers import MapNorm, MBConv, RelativeAttention, RelativeBlock
from ..layers.mbconv import ACTIVATIONS
from ..layers.memory_format import as_output, prefer_channels_last
from .arch import of_stage, resolve_arch
from .arguments import is_count
from .base import BaseBackbone

_STRIDES = (4, 8, 16, 32)
# The stage whose attention ``window_size`` restricts: at detection size it has 4200 positions.
_WINDOW_STAGE = 2
# What distinguishes timm's models, see docs/coatnet.md. The paper does not name the pooling's size.
DEFAULTS = dict(
    block_types=('C', 'C', 'T', 'T'), downsample_in='expand', pool='max2', image_size=224,
    stem_hidden=None, act='gelu', act_first=False, expand_input=False, gate_act='silu',
    gate_early=False, conv_bias=True, shortcut_bias=True, expand_last=False)


class CoAtNetStem(BaseModule):
    """Stage S0: two 3x3 convolutions, the first with stride 2, norm and activation between them.

    Shapes: (B, in_channels, H, W) -> (B, width, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, in_channels: int, hidden: int, width: int, act: str, norm_cfg: dict):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, stride=2, padding=1, bias=False)
        self.norm1 = build_norm_layer(norm_cfg, hidden)[1]
        self.act = ACTIVATIONS[act]()
        self.conv2 = nn.Conv2d(hidden, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.norm1(self.conv1(x))))

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Fold the norm into the convolution before it, in place."""
        if not isinstance(self.norm1, nn.Identity):
            self.conv1, self.norm1 = fuse_conv_bn_eval(self.conv1, self.norm1), nn.Identity()


@MODELS.register_module()
class CoAtNet(BaseBackbone):
    r"""CoAtNet: convolution in the first stages, attention with relative positions in the last.

    ::

        image (B, 3, H, W)
          | S0: two convolutions, /2
          | S1: MBConv blocks, first /2      -> stage 0: ( 96, H/4,  W/4 )
          | S2: MBConv blocks, first /2      -> stage 1: (192, H/8,  W/8 )
          | S3: attention blocks, first /2   -> stage 2: (384, H/16, W/16)
          | S4: attention blocks, first /2   -> stage 3: (768, H/32, W/32)

    Every division rounds up. Any size from 32 x 32 works: the tables of relative positions, learned
    for 224 x 224, are resized. Attention sees padding: an image padded in a batch gets other
    features than the image alone.

    Args:
        arch (str | dict): Name of a row of ``arch_settings`` or a dict with the same keys:
            ``embed_dims``, ``depths``, ``stem_width`` and, if they differ from ``DEFAULTS``,
            ``block_types`` per stage ('C' or 'T', convolution before attention), ``downsample_in``
            and ``pool`` (see :class:`mmcontainer.layers.MBConv`), ``image_size`` of the tables, and
            the options of timm's models.
        in_channels (int): Channels of the input image.
        out_indices (Sequence[int], optional): Stages to return, all of them by default.
        frozen_stages (int): -1 nothing; 0 the stem; k the stem and stages 1 ... k.
        drop_path_rate (float): Drop-path rate of the last block; grows linearly from 0.
        norm_cfg (dict): Config of the batch norms; ``requires_grad=False`` freezes affine
            parameters and statistics. Layer norms of attention blocks stay.
        norm_eval (bool): Keep batch norms in evaluation mode during training.
        with_cp (bool): Recompute blocks in the backward pass to save memory.
        final_norm (bool): Apply the classifier's layer norm to the output of the last stage.
        window_size (int, optional): Attention of stage 2 (stride 16) within windows of this size.
        init_cfg (dict, optional): Initialisation config, see ``StrictPretrained``.

    Raises:
        ValueError: Unknown or incomplete ``arch``, attention before convolution, bad
            ``out_indices``, ``frozen_stages`` or ``window_size``; in ``forward``, images smaller
            than 32 x 32.

    Examples:
        >>> import torch
        >>> from mmcontainer.backbones import CoAtNet
        >>> model = CoAtNet('coatnet-0').eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 64, 96))]
        [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    """

    arch_settings = {
        'coatnet-0': dict(stem_width=64, embed_dims=(96, 192, 384, 768), depths=(2, 3, 5, 2)),
        'coatnet-1': dict(stem_width=64, embed_dims=(96, 192, 384, 768), depths=(2, 6, 14, 2)),
        'coatnet-2': dict(stem_width=128, embed_dims=(128, 256, 512, 1024), depths=(2, 6, 14, 2)),
        'coatnet-3': dict(stem_width=192, embed_dims=(192, 384, 768, 1536), depths=(2, 6, 14, 2)),
        'coatnet-4': dict(stem_width=192, embed_dims=(192, 384, 768, 1536), depths=(2, 12, 28, 2)),
    }

    def __init__(self,
                 arch: Union[str, dict] = 'coatnet-0',
                 in_channels: int = 3,
                 out_indices: Optional[Sequence[int]] = None,
                 frozen_stages: int = -1,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict = dict(type='BN'),  # noqa: B006
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 final_norm: bool = False,
                 window_size: Optional[int] = None,
                 init_cfg=None):
        super().__init__(_STRIDES, out_indices, frozen_stages, norm_cfg, norm_eval,
                         in_channels, drop_path_rate, init_cfg)
        self.arch = resolve_arch(arch, self.arch_settings, type(self).__name__, DEFAULTS)
        _check_block_types(self.arch['block_types'])
        if window_size is not None and (
                not is_count(window_size) or self.arch['block_types'][_WINDOW_STAGE] != 'T'):
            raise ValueError(f'window_size must be positive, for an attention stage {_WINDOW_STAGE}'
                             f'; got {window_size} with {self.arch["block_types"]}.')
        self.norm_cfg, self.with_cp, self.window_size = norm_cfg, with_cp, window_size
        depths, width = self.arch['depths'], self.arch['stem_width']
        self.stem = CoAtNetStem(
            in_channels, self.arch['stem_hidden'] or width, width, self.arch['act'], norm_cfg)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').split(depths)
        dims = (width, *self.arch['embed_dims'])
        self.stages = ModuleList(
            Sequential(*(self._build_block(stage, index, dims[stage], rate)
                         for index, rate in enumerate(rates[stage].tolist())))
            for stage in range(len(depths)))
        self.norm = MapNorm(dims[-1], eps=1e-6) if final_norm else None
        self._reset_parameters()
        self.freeze()

    def _build_block(self, stage: int, index: int, in_channels: int, rate: float) -> nn.Module:
        row = {key: of_stage(entry, stage) for key, entry in self.arch.items()}
        dims, stride = row['embed_dims'], 2 if index == 0 else 1
        channels = in_channels if index == 0 else dims
        common = dict(stride=stride, pool=row['pool'], drop_path_rate=rate, with_cp=self.with_cp)
        if row['block_types'] == 'C':
            return MBConv(
                channels, dims, downsample_in=row['downsample_in'], act=row['act'],
                act_first=row['act_first'], expand_input=row['expand_input'],
                gate_act=row['gate_act'], gate_early=row['gate_early'],
                output_bias=row['conv_bias'], norm_cfg=self.norm_cfg, **common)
        return RelativeBlock(
            channels, dims, (row['image_size'] // self.strides[stage], ) * 2,
            shortcut_bias=row['shortcut_bias'], expand_last=row['expand_last'],
            window_size=self.window_size if stage == _WINDOW_STAGE else None, **common)

    def _reset_parameters(self) -> None:
        """Fan-out normal weights in convolution stages, Xavier in attention, small tables."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.modules():
            if not isinstance(block, RelativeBlock):
                continue
            for module in block.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)
                elif isinstance(module, RelativeAttention):
                    nn.init.trunc_normal_(module.table, std=0.02)

    def stem_modules(self) -> list[nn.Module]:
        return [self.stem]

    def stage_modules(self, stage: int) -> list[nn.Module]:
        return [self.stages[stage]]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, C, H, W) to the chosen stages' maps (B, C_i, ceil(H / s_i), ...)."""
        self.check_input(x)
        x = self.stem(prefer_channels_last(x))
        outs = []
        for i in range(self.out_indices[-1] + 1):
            x = self.stages[i](x)
            if i in self.out_indices:
                is_last = i == len(self.stages) - 1
                out = self.norm(x) if is_last and self.norm is not None else x
                outs.append(as_output(out))
        return tuple(outs)


def _check_block_types(types: Union[str, Sequence[str]]) -> None:
    found = '-'.join(types)
    if set(types) - {'C', 'T'} or len(types) != len(_STRIDES):
        raise ValueError(f"block_types must be four of 'C' (convolution) and 'T' (attention), got "
                         f'{found}.')
    if types[0] != 'C' or list(types) != sorted(types):
        raise ValueError(f'block_types {found}: convolution stages must come before attention '
                         'stages, and the first is one; allowed are C-C-C-C, C-C-C-T, C-C-T-T and '
                         'C-T-T-T (arXiv 2106.04803, section 2.2).')
