"""CoAtNet's stem, and its MBConv block: inverted bottleneck with squeeze-and-excitation."""
import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..ops import spatial_mean
from .depthwise import DepthwiseConv2d

ACTIVATIONS = {'gelu': nn.GELU, 'silu': nn.SiLU, 'relu': nn.ReLU}
# The place in a block with stride 2 that halves the map.
DOWNSAMPLES = ('expand', 'depthwise', 'pool')


def build_pool(kind: str) -> nn.Module:
    """Pooling that halves a map, rounding up: 'max' (3 x 3), 'max2' or 'avg2' (2 x 2)."""
    if kind == 'max':
        return nn.MaxPool2d(3, stride=2, padding=1)
    pools = {'max2': nn.MaxPool2d, 'avg2': nn.AvgPool2d}
    if kind not in pools:
        raise ValueError(f"pool must be 'max', 'max2' or 'avg2', got {kind!r}.")
    return pools[kind](2, ceil_mode=True)


class PooledShortcut(nn.Sequential):
    """Pooling and a 1x1 convolution, where a block changes size and width."""

    def __init__(self, in_channels: int, out_channels: int, pool: str, bias: bool):
        super().__init__(build_pool(pool), nn.Conv2d(in_channels, out_channels, 1, bias=bias)
                         if in_channels != out_channels else nn.Identity())


class SqueezeExcite(nn.Module):
    """Gate ``sigmoid(fc2(act(fc1(mean(x)))))`` per channel."""

    def __init__(self, channels: int, hidden: int, act: str):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.act = ACTIVATIONS[act]()
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.act(self.fc1(spatial_mean(x)))).sigmoid()


class CoAtNetStem(BaseModule):
    """Stage S0: two 3x3 convolutions, the first with stride 2, norm and activation between them.

    ``input_shift`` (in_channels, ) is subtracted from the image first, which makes it the colour
    that the zeros around the image stand for. It is 0 unless weights bring another one: those that
    were trained on pixels of another mean, see :mod:`mmcontainer.checkpoints.timm_coatnet`.

    Shapes: (B, in_channels, H, W) -> (B, width, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, in_channels: int, hidden: int, width: int, act: str, norm_cfg: dict):
        super().__init__()
        self.register_buffer('input_shift', torch.zeros(in_channels))
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, stride=2, padding=1, bias=False)
        self.norm1 = build_norm_layer(norm_cfg, hidden)[1]
        self.act = ACTIVATIONS[act]()
        self.conv2 = nn.Conv2d(hidden, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.input_shift[:, None, None]
        return self.conv2(self.act(self.norm1(self.conv1(x))))


class MBConv(BaseModule):
    """``x + conv1x1(SE(act(BN(depth-wise(act(BN(conv1x1(BN(x)))))))))``.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        stride (int): 1 or 2; with 2 the shortcut is pooled and projected.
        downsample_in (str): What has the stride: 'expand' the first 1x1 convolution (the paper),
            'depthwise' the 3x3 one, 'pool' a pooling before the first.
        pool (str): Pooling, see :func:`build_pool`.
        act (str): 'gelu' or 'silu'.
        act_first (bool): Activation also behind the first norm.
        expand_input (bool): Hidden channels are 4 times those of the input, not of the output.
        gate_act (str): Activation inside of the gate.
        gate_early (bool): Gate before the norm behind the depth-wise convolution.
        output_bias (bool): Biases of the last convolution and of the shortcut's.
        drop_path_rate (float): Probability of dropping the branch.
        norm_cfg (dict): Config of the batch norms.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: Unknown ``downsample_in`` or ``pool``.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).
    Source: arXiv 2106.04803, appendix A.1; the options are those of timm's models.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 stride: int = 1,
                 downsample_in: str = 'expand',
                 pool: str = 'max2',
                 act: str = 'gelu',
                 act_first: bool = False,
                 expand_input: bool = False,
                 gate_act: str = 'silu',
                 gate_early: bool = False,
                 output_bias: bool = True,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict = dict(type='BN'),  # noqa: B006
                 init_cfg=None):
        super().__init__(init_cfg)
        if downsample_in not in DOWNSAMPLES:
            raise ValueError(f'downsample_in must be one of {", ".join(map(repr, DOWNSAMPLES))}, '
                             f'got {downsample_in!r}.')
        hidden = 4 * (in_channels if expand_input else out_channels)
        gate = hidden // 4 if expand_input else out_channels // 4
        strides = {place: stride if place == downsample_in else 1 for place in DOWNSAMPLES}

        def norm(channels):
            return build_norm_layer(norm_cfg, channels)[1]

        self.shortcut = nn.Identity() if stride == 1 else PooledShortcut(
            in_channels, out_channels, pool, output_bias)
        self.pre_norm = norm(in_channels)
        self.pre_act = ACTIVATIONS[act]() if act_first else nn.Identity()
        self.down = build_pool(pool) if strides['pool'] > 1 else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, stride=strides['expand'], bias=False)
        self.norm1 = norm(hidden)
        self.conv2 = DepthwiseConv2d(hidden, 3, strides['depthwise'], bias=False)
        self.norm2 = norm(hidden)
        self.gate = SqueezeExcite(hidden, gate, gate_act)
        self.gate_early = gate_early
        self.act = ACTIVATIONS[act]()
        self.conv3 = nn.Conv2d(hidden, out_channels, 1, bias=output_bias)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.pre_act(self.pre_norm(x)))
        y = self.conv2(self.act(self.norm1(self.conv1(y))))
        if self.gate_early:
            y = self.act(self.norm2(self.gate(y)))
        else:
            y = self.gate(self.act(self.norm2(y)))
        return self.shortcut(x) + self.drop_path(self.conv3(y))
