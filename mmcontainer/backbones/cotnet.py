"""CoTNet, CoTNeXt and SE-CoTNetD (arXiv 2107.12292) as multi-scale backbones."""
from collections.abc import Sequence
from typing import Optional, Union

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..layers import BlurPool, CotBlock, CotLayer, GatedConv
from ..layers.memory_format import as_output, prefer_channels_last
from .arch import of_stage, resolve_arch
from .base import BaseBackbone

_COTNET = dict(
    stem='conv7', embed_dims=(256, 512, 1024, 2048), widths=(64, 128, 256, 512),
    layers=('cot', 'cot', 'cot', 'cot'))
_COTNEXT = dict(_COTNET, widths=(96, 192, 384, 768), layers=('coxt', 'coxt', 'coxt', 'coxt'))
_SE_COTNETD = dict(_COTNET, layers=('gated', 'gated', 'cot-gated', 'cot'))


@MODELS.register_module()
class CoTNet(BaseBackbone):
    r"""Contextual Transformer Networks: ResNets whose 3x3 convolutions are CoT layers.

    ::

        image (B, 3, H, W)
          | stem /2 or /4, blocks -> stage 0: ( 256, H/4,  W/4 )
          | blocks, first /2      -> stage 1: ( 512, H/8,  W/8 )
          | blocks, first /2      -> stage 2: (1024, H/16, W/16)
          | blocks, first /2      -> stage 3: (2048, H/32, W/32)

    Every division rounds up. Any size from 32 x 32 works. CoT layers normalise over the whole map
    and average over it, so that a padded image gets other features than the image alone.

    Args:
        arch (str | dict): Name of a row of ``arch_settings`` or a dict with the same keys:
            ``depths``, ``embed_dims``, ``widths`` (of the spatial layers) and ``layers`` ('cot',
            'coxt', 'gated', or 'cot-gated' for alternating ones) with one entry per stage;
            ``stem`` ('conv7' with max-pooling, or the width of three 3x3 convolutions without)
            and ``blur`` (down-sample behind the spatial layer by blur pooling).
        in_channels (int): Channels of the input image.
        out_indices (Sequence[int], optional): Stages to return, all of them by default.
        frozen_stages (int): -1 nothing; 0 the stem; k the stem and stages 1 ... k.
        drop_path_rate (float): Drop-path rate of the last block; grows linearly from 0.
        norm_cfg (dict): Config of the batch norms, 'BN' or 'SyncBN'; ``requires_grad=False``
            freezes affine parameters and statistics. The group norms of CoT layers have no
            statistics and stay.
        norm_eval (bool): Keep batch norms in evaluation mode during training.
        with_cp (bool): Recompute blocks in the backward pass to save memory.
        final_norm (bool): Must be False: CoTNet's classifier has no norm of its own.
        init_cfg (dict, optional): Initialisation config, see ``StrictPretrained``.

    Raises:
        ValueError: Unknown or incomplete ``arch``, bad ``out_indices`` or ``frozen_stages``; in
            ``forward``, images smaller than 32 x 32, or training on a single image with norms that
            see one value per image.

    Examples:
        >>> import torch
        >>> from mmcontainer.backbones import CoTNet
        >>> model = CoTNet('cotnet-50').eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 64, 96))]
        [(1, 256, 16, 24), (1, 512, 8, 12), (1, 1024, 4, 6), (1, 2048, 2, 3)]
    """

    arch_settings = {
        'cotnet-50': dict(_COTNET, depths=(3, 4, 6, 3), blur=False),
        'cotnet-101': dict(_COTNET, depths=(3, 4, 23, 3), blur=False),
        # CoTNeXt 2x48d
        'cotnext-50': dict(_COTNEXT, depths=(3, 4, 6, 3), blur=False),
        'cotnext-101': dict(_COTNEXT, depths=(3, 4, 23, 3), blur=False),
        'se-cotnetd-50': dict(_SE_COTNETD, stem=32, depths=(3, 4, 6, 3), blur=False),
        'se-cotnetd-101': dict(_SE_COTNETD, stem=64, depths=(3, 4, 23, 3), blur=False),
        'se-cotnetd-152': dict(_SE_COTNETD, stem=64, depths=(3, 8, 36, 3), blur=True),
    }

    def __init__(self,
                 arch: Union[str, dict] = 'cotnet-50',
                 in_channels: int = 3,
                 out_indices: Optional[Sequence[int]] = None,
                 frozen_stages: int = -1,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict = dict(type='BN'),  # noqa: B006
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 final_norm: bool = False,
                 init_cfg=None):
        super().__init__((4, 8, 16, 32), out_indices, frozen_stages, norm_cfg, norm_eval,
                         in_channels, drop_path_rate, init_cfg)
        if final_norm:
            raise ValueError('final_norm must be False: the classifier of CoTNet has no such norm.')
        self.arch = resolve_arch(arch, self.arch_settings, type(self).__name__)
        if len(self.arch['depths']) != len(self.strides):
            raise ValueError(f'An arch of CoTNet has {len(self.strides)} stages, got '
                             f'{len(self.arch["depths"])}.')
        self.norm_cfg = norm_cfg
        self.with_cp = with_cp
        channels = self._build_stem(in_channels)
        depths = self.arch['depths']
        rates = torch.linspace(0, drop_path_rate, sum(depths)).split(depths)
        for stage, out_channels in enumerate(self.arch['embed_dims']):
            blocks = [self._build_block(stage, i, channels if i == 0 else out_channels, rate)
                      for i, rate in enumerate(rates[stage].tolist())]
            # Named as in the official checkpoints, which is as in ResNet.
            self.add_module(f'layer{stage + 1}', Sequential(*blocks))
            channels = out_channels
        self._reset_parameters()
        self.freeze()

    def _norm(self, channels: int) -> nn.Module:
        return build_norm_layer(self.norm_cfg, channels)[1]

    def _build_stem(self, in_channels: int) -> int:
        """Build conv1, bn1 and maxpool; return the number of channels behind them."""
        width = self.arch['stem']
        if width == 'conv7':
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
            channels = 64
        else:
            self.conv1 = Sequential(
                nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False),
                self._norm(width), nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                self._norm(width), nn.ReLU(inplace=True),
                nn.Conv2d(width, 2 * width, 3, padding=1, bias=False))
            # The first stage halves the size instead.
            self.maxpool = nn.Identity()
            channels = 2 * width
        self.bn1 = self._norm(channels)
        self.relu = nn.ReLU(inplace=True)
        return channels

    def _build_block(self, stage: int, index: int, in_channels: int, rate: float) -> CotBlock:
        row = {key: of_stage(entry, stage) for key, entry in self.arch.items()}
        width, kind = row['widths'], row['layers']
        if kind == 'cot-gated':
            kind = 'cot' if index % 2 == 0 else 'gated'
        is_deep = row['stem'] != 'conv7'
        stride = 2 if index == 0 and (stage > 0 or is_deep) else 1
        before = after = None
        conv_stride = 1
        if stride == 2 and row['blur']:
            after = BlurPool(width)
        elif stride == 2 and kind == 'gated':
            conv_stride = 2
        elif stride == 2:
            before = nn.AvgPool2d(3, stride=2, padding=1)
        if kind == 'gated':
            layer = GatedConv(width, conv_stride, norm_cfg=self.norm_cfg)
        elif kind in ('cot', 'coxt'):
            layer = CotLayer(width, groups=1 if kind == 'cot' else 2, norm_cfg=self.norm_cfg)
        else:
            raise ValueError(f"layers of an arch must be 'cot', 'coxt', 'gated' or 'cot-gated', "
                             f'got {kind!r}.')
        downsample = None
        if index == 0:
            downsample = self._build_shortcut(in_channels, row['embed_dims'], stride, is_deep)
        return CotBlock(in_channels, width, row['embed_dims'], layer, before, after, downsample,
                        rate, self.norm_cfg, self.with_cp)

    def _build_shortcut(self, in_channels: int, out_channels: int, stride: int,
                        pool: bool) -> Sequential:
        conv_stride = 1 if pool else stride
        layers = [nn.Conv2d(in_channels, out_channels, 1, stride=conv_stride, bias=False),
                  self._norm(out_channels)]
        if pool:
            layers.insert(0, nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False))
        return Sequential(*layers)

    def _reset_parameters(self) -> None:
        """The official initialisation: blocks start as their shortcuts."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            elif isinstance(module, CotBlock):
                nn.init.zeros_(module.bn3.weight)

    def stem_modules(self) -> list[nn.Module]:
        return [self.conv1, self.bn1]

    def stage_modules(self, stage: int) -> list[nn.Module]:
        return [getattr(self, f'layer{stage + 1}')]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, C, H, W) to the chosen stages' maps (B, C_i, ceil(H / s_i), ...)."""
        self.check_input(x)
        x = self.maxpool(self.relu(self.bn1(self.conv1(prefer_channels_last(x)))))
        outs = []
        for i in range(self.out_indices[-1] + 1):
            x = getattr(self, f'layer{i + 1}')(x)
            if i in self.out_indices:
                outs.append(as_output(x))
        return tuple(outs)

    @torch.no_grad()
    def fold_stem(self) -> None:
        """Fold the norms of the stem into its convolutions."""
        if isinstance(self.bn1, nn.Identity):
            return
        if isinstance(self.conv1, nn.Conv2d):
            self.conv1 = fuse_conv_bn_eval(self.conv1, self.bn1)
        else:
            for conv, norm in ((0, 1), (3, 4)):
                self.conv1[conv] = fuse_conv_bn_eval(self.conv1[conv], self.conv1[norm])
                self.conv1[norm] = nn.Identity()
            self.conv1[6] = fuse_conv_bn_eval(self.conv1[6], self.bn1)
        self.bn1 = nn.Identity()
