"""CoTNet's layers for inference: folded, fused, and the aggregation in NCHW."""
import torch
from torch import Tensor, nn

from ..cot import CotLayer
from ..cot_block import CotBlock
from ..gated_conv import GatedConv
from ..memory_format import prefer_channels_last
from .fold import check_drop_path, conv_then_norm, fold_pair, scale_and_shift
from .pointwise import may_overwrite, pointwise, pointwise_nchw


class ChannelBias(nn.Module):
    """Add one value per channel: what is left of a norm whose scale was folded away."""

    def __init__(self, bias: Tensor):
        super().__init__()
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        # In the type of x, which under autocast is not that of the weights.
        return x + self.bias.to(x.dtype).view(1, -1, 1, 1)


class DeployedCotLayer(CotLayer):
    """:class:`CotLayer` with every batch norm in the convolution before it.

    The norm behind the aggregation scales channels, and aggregation keeps channels apart: its scale
    goes into the values' convolution, its shift stays. The group norm stays.

    Raises:
        CannotFold: If a part is hooked, or is not what :class:`CotLayer` builds.
    """

    @torch.no_grad()
    def __init__(self, layer: CotLayer):
        branches = layer.key_embed, layer.embed, layer.conv1x1, layer.se
        folded = [conv_then_norm(branch[0], branch[1]) for branch in branches]
        scale, shift = (value.to(layer.bn.weight) for value in scale_and_shift(layer.bn))
        self.__dict__.update(layer.__dict__)
        for branch, conv in zip(branches, folded):
            branch[0], branch[1] = conv, nn.Identity()
        self.conv1x1[0].weight.mul_(scale.view(-1, 1, 1, 1))
        self.conv1x1[0].bias.mul_(scale)
        self.bn = ChannelBias(shift)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != 'cpu' or not may_overwrite(self):
            return super().forward(x)
        key = self.key_embed(x)
        hidden = pointwise(self.embed[0], self.concatenate(x, key), self.embed[2])
        # Aggregation in NCHW takes half the time, and a matrix product gives either layout.
        weight = self.embed[4](pointwise_nchw(self.embed[3], hidden))
        value = pointwise_nchw(self.conv1x1[0], x)
        return self.mix(self.bn(prefer_channels_last(self.aggregate(value, weight))), key)


class DeployedCotBlock(CotBlock):
    """:class:`CotBlock` without norms, its activations and its sum inside of the convolutions.

    Raises:
        CannotFold: If a part is hooked, or is not what :class:`CotBlock` builds.
    """

    def __init__(self, block: CotBlock):
        check_drop_path(block.drop_path)
        conv1 = conv_then_norm(block.conv1, block.bn1)
        conv3 = conv_then_norm(block.conv3, block.bn3)
        shortcut = block.downsample and conv_then_norm(*block.downsample[-2:])
        self.__dict__.update(block.__dict__)
        self.conv1, self.bn1 = conv1, nn.Identity()
        self.conv3, self.bn3 = conv3, nn.Identity()
        self.drop_path = nn.Identity()
        if shortcut is not None:
            self.downsample[-2], self.downsample[-1] = shortcut, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != 'cpu' or not may_overwrite(self):
            return super().forward(x)
        y = pointwise(self.conv1, x, self.relu)
        for layer in (self.before, self.conv2, self.after):
            y = y if layer is None else layer(y)
        if self.downsample is None:
            out = x.clone()  # x is the caller's
        else:
            *layers, conv, _ = self.downsample
            for layer in layers:
                x = layer(x)
            out = pointwise(conv, x)
        return pointwise(self.conv3, y, self.relu, out=out)


def fold_gated_conv(layer: GatedConv) -> GatedConv:
    """Fold both norms into the convolutions before them, in place."""
    fold_pair(layer, 'conv', 'bn0')
    fold_pair(layer, 'fc1', 'bn1')
    return layer
