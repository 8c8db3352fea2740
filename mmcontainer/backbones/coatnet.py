"""CoAtNet (arXiv 2106.04803) as a multi-scale backbone for images of any size."""
from collections.abc import Sequence
from typing import Optional, Union

from mmengine.model import ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import CoAtNetStem, MapNorm, MBConv, RelativeAttention, RelativeBlock, Stage
from ..layers.memory_format import prefer_channels_last
from .arch import of_stage
from .arguments import is_count
from .base import BaseBackbone

# The stage whose attention ``window_size`` restricts: at detection size it has 4200 positions.
_WINDOW_STAGE = 2
# timm's models differ from the paper's in these options (docs/coatnet.md). The paper does not name
# the pooling's size.
DEFAULTS = dict(
    block_types=('C', 'C', 'T', 'T'), downsample_in='expand', pool='max2', image_size=224,
    stem_hidden=None, act='gelu', act_first=False, expand_input=False, gate_act='silu',
    gate_early=False, conv_bias=True, shortcut_bias=True, expand_last=False)


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
        window_size (int, optional): Attention of stage 2 (stride 16) within windows of this size.
        *args, **kwargs: See :class:`BaseBackbone`. ``final_norm`` is the classifier's layer norm.

    Raises:
        ValueError: Unknown or incomplete ``arch``, attention before convolution, bad
            ``window_size``; see :class:`BaseBackbone`.

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

    arch_defaults = DEFAULTS
    default_arch = 'coatnet-0'

    def __init__(self, *args, window_size: Optional[int] = None, **kwargs):
        super().__init__(*args, **kwargs)
        arch = self.arch
        _check_block_types(arch['block_types'])
        if window_size is not None and (
                not is_count(window_size) or arch['block_types'][_WINDOW_STAGE] != 'T'):
            raise ValueError(f'window_size must be positive, for an attention stage {_WINDOW_STAGE}'
                             f'; got {window_size} with {arch["block_types"]}.')
        self.window_size = window_size
        width = arch['stem_width']
        self.stem = CoAtNetStem(
            self.in_channels, arch['stem_hidden'] or width, width, arch['act'], self.norm_cfg)
        dims = (width, *arch['embed_dims'])
        self.stages = ModuleList(
            Stage(*(self._build_block(stage, index, dims[stage], rate)
                    for index, rate in enumerate(rates)), with_cp=self.with_cp)
            for stage, rates in enumerate(self.drop_path_rates()))
        self._reset_parameters()
        self.finish()

    def build_final_norm(self) -> nn.Module:
        return MapNorm(self.arch['embed_dims'][-1], eps=1e-6)

    def _build_block(self, stage: int, index: int, in_channels: int, rate: float) -> nn.Module:
        row = {key: of_stage(entry, stage) for key, entry in self.arch.items()}
        dims, stride = row['embed_dims'], 2 if index == 0 else 1
        channels = in_channels if index == 0 else dims
        common = dict(stride=stride, pool=row['pool'], drop_path_rate=rate)
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
                # PyTorch's own fan-out does not know that each group has outputs of its own.
                fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out)**0.5)
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

    def forward_stem(self, x: Tensor) -> Tensor:
        return self.stem(prefer_channels_last(x))


def _check_block_types(types: Union[str, Sequence[str]]) -> None:
    found = '-'.join(types)
    if set(types) - {'C', 'T'} or len(types) != 4:
        raise ValueError(f"block_types must be four of 'C' (convolution) and 'T' (attention), got "
                         f'{found}.')
    if types[0] != 'C' or list(types) != sorted(types):
        raise ValueError(f'block_types {found}: convolution stages must come before attention '
                         'stages, and the first is one; allowed are C-C-C-C, C-C-C-T, C-C-T-T and '
                         'C-T-T-T (arXiv 2106.04803, section 2.2).')
