"""The bottleneck of CoTNet and SE-CoTNetD."""
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn


class CotBlock(BaseModule):
    """ResNet's bottleneck around any spatial layer.

    ::

        y = BN(1x1(after(layer(before(ReLU(BN(1x1(x))))))))
        out = ReLU(DropPath(y) + shortcut(x))

    Args:
        in_channels (int): Channels of the input.
        width (int): Channels of the spatial layer.
        out_channels (int): Channels of the output.
        layer (nn.Module): Maps ``width`` channels to as many: a CoT layer or a gated convolution.
        before (nn.Module, optional): Applied before the layer (average pooling).
        after (nn.Module, optional): Applied behind it (blur pooling).
        downsample (nn.Sequential, optional): Shortcut; the identity without it. Its last two
            modules are a convolution and a norm.
        drop_path_rate (float): Probability to drop the branch of one sample during training.
        norm_cfg (dict): Config of the batch norms.
        init_cfg (dict, optional): Initialisation config.
    """

    def __init__(self,
                 in_channels: int,
                 width: int,
                 out_channels: int,
                 layer: nn.Module,
                 before: nn.Module = None,
                 after: nn.Module = None,
                 downsample: nn.Module = None,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict = dict(type='BN'),  # noqa: B006
                 init_cfg=None):
        super().__init__(init_cfg)
        # Names are those of the official checkpoints; `before` and `after` have no parameters.
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = build_norm_layer(norm_cfg, width)[1]
        self.before = before
        self.conv2 = layer
        self.after = after
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = build_norm_layer(norm_cfg, out_channels)[1]
        self.downsample = downsample
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        for layer in (self.before, self.conv2, self.after):
            y = y if layer is None else layer(y)
        y = self.drop_path(self.bn3(self.conv3(y)))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))
