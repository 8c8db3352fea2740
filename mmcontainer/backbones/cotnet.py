"""CoTNet, CoTNeXt and SE-CoTNetD (arXiv 2107.12292) as multi-scale backbones."""
from mmcv.cnn import build_norm_layer
from mmengine.model import Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import BlurPool, CotBlock, CotLayer, GatedConv, Stage
from ..layers.deployed import fold_pair
from ..layers.memory_format import prefer_channels_last
from .arch import of_stage
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
        *args, **kwargs: See :class:`BaseBackbone`. The classifier has no norm of its own, so
            ``final_norm`` must be False. With batch norms that train, a batch of one image per
            process is refused, because some see one value per image.

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

    default_arch = 'cotnet-50'

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        channels = self._build_stem()
        for stage, rates in enumerate(self.drop_path_rates()):
            out_channels = self.arch['embed_dims'][stage]
            blocks = [self._build_block(stage, i, channels if i == 0 else out_channels, rate)
                      for i, rate in enumerate(rates)]
            # Named as in the official checkpoints, which is as in ResNet.
            self.add_module(f'layer{stage + 1}', Stage(*blocks, with_cp=self.with_cp))
            channels = out_channels
        self._reset_parameters()
        self.finish()

    def build_final_norm(self) -> nn.Module:
        raise ValueError('final_norm must be False: the classifier of CoTNet has no such norm.')

    def _norm(self, channels: int) -> nn.Module:
        return build_norm_layer(self.norm_cfg, channels)[1]

    def _build_stem(self) -> int:
        """Build conv1, bn1 and maxpool; return the number of channels behind them."""
        in_channels, width = self.in_channels, self.arch['stem']
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
                        rate, self.norm_cfg)

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
            elif isinstance(module, CotBlock) and module.bn3.weight is not None:
                nn.init.zeros_(module.bn3.weight)

    def stem_modules(self) -> list[nn.Module]:
        return [self.conv1, self.bn1]

    def stage(self, index: int) -> nn.Module:
        return getattr(self, f'layer{index + 1}')

    def forward_stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(prefer_channels_last(x)))))

    def fold_stem(self) -> None:
        if isinstance(self.conv1, nn.Conv2d):
            fold_pair(self, 'conv1', 'bn1')
            return
        for conv, norm in (('conv1.0', 'conv1.1'), ('conv1.3', 'conv1.4'), ('conv1.6', 'bn1')):
            fold_pair(self, conv, norm)
