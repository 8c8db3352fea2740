"""Contextual transformer layer of CoTNet: a static and a dynamic context of every position."""
import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..ops import local_aggregation, mix, spatial_mean
from ..ops.precision import without_autocast
from .pooled_norm import check_pooled_norm


class WeightNorm(nn.GroupNorm):
    """Group norm with float32 statistics, and output of its input's type, under autocast too.

    A group is the weights of one channel at all positions of the image: hundreds of thousands of
    values, whose sum half precision would not hold.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float16, torch.bfloat16):
            return super().forward(x)
        with without_autocast(x.device.type):
            return F.group_norm(
                x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps
            ).to(x.dtype)


class CotLayer(BaseModule):
    """CoT (``groups=1``) and CoXt (``groups=2``) layer.

    ::

        key    = ReLU(BN(grouped conv k x k(x)))                    static context
        weight = GN(1x1(ReLU(BN(1x1([x, key])))))                   k x k weights at every position
        value  = BN(1x1(x))
        u      = SiLU(BN(sum over k x k taps of weight * value))    dynamic context
        y      = p * u + (1 - p) * key,  p = sigmoid(fusion(mean(u + key)))

    One weight channel serves 8 / groups value channels, those that are congruent modulo the number
    of weight channels (of their group). GN normalises the k x k weights of a channel together, over
    the whole map: outputs depend on the size of the image and on its padding, and so does the mean.
    The official softmax over the two logits of a channel is the sigmoid of their difference.

    Args:
        embed_dims (int): Channels C, a multiple of 8 * groups.
        groups (int): Halves that are embedded and aggregated separately: 1 or 2.
        kernel_size (int): Odd size k of the neighbourhood.
        norm_cfg (dict): Config of the batch norms.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: If ``embed_dims`` does not fit; in ``forward``, when training on a single image.

    Shapes: (B, C, H, W) -> (B, C, H, W). Source: arXiv 2107.12292, section 3.2, and its code.
    """

    def __init__(self,
                 embed_dims: int,
                 groups: int = 1,
                 kernel_size: int = 3,
                 norm_cfg: dict = dict(type='BN'),  # noqa: B006
                 init_cfg=None):
        super().__init__(init_cfg)
        if embed_dims % (8 * groups):
            raise ValueError(f'embed_dims ({embed_dims}) must be a multiple of {8 * groups}.')
        self.groups, self.kernel_size = groups, kernel_size
        self.weight_channels = embed_dims // 8
        taps = kernel_size**2
        hidden, fusion = embed_dims // 2, max(embed_dims // 2, 32)

        def norm(channels):
            return build_norm_layer(norm_cfg, channels)[1]

        def conv1x1(in_channels, out_channels, bias):
            return nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=bias)

        # Names and order are those of the official checkpoints.
        self.key_embed = nn.Sequential(
            nn.Conv2d(embed_dims, embed_dims, kernel_size, padding=kernel_size // 2,
                      groups=4 * groups, bias=False), norm(embed_dims), nn.ReLU(inplace=True))
        self.embed = nn.Sequential(
            conv1x1(2 * embed_dims, hidden, bias=False), norm(hidden), nn.ReLU(inplace=True),
            conv1x1(hidden, taps * self.weight_channels, bias=True),
            WeightNorm(self.weight_channels, taps * self.weight_channels))
        self.conv1x1 = nn.Sequential(conv1x1(embed_dims, embed_dims, bias=False), norm(embed_dims))
        self.bn = norm(embed_dims)
        self.act = nn.SiLU(inplace=True)
        self.se = nn.Sequential(
            nn.Conv2d(embed_dims, fusion, 1), norm(fusion), nn.ReLU(inplace=True),
            nn.Conv2d(fusion, 2 * embed_dims, 1))

    def forward(self, x: Tensor) -> Tensor:
        key = self.key_embed(x)
        weight = self.embed(self.concatenate(x, key))
        return self.mix(self.bn(self.aggregate(self.conv1x1(x), weight)), key)

    def concatenate(self, x: Tensor, key: Tensor) -> Tensor:
        """Both maps (B, C, H, W) as one (B, 2 C, H, W), in the order of the weights."""
        if self.groups == 1:
            return torch.cat((x, key), dim=1)
        # Interleaved, so that a group of channels holds the same channels of both.
        return torch.stack((x, key), dim=2).flatten(1, 2)

    def aggregate(self, value: Tensor, weight: Tensor) -> Tensor:
        """Sum over the neighbours of each position, with its own weights (B, K C / 8, H, W)."""
        batch, channels, height, width = value.shape
        # The groups share nothing: they become samples of a larger batch.
        value = value.reshape(batch * self.groups, channels // self.groups, height, width)
        weight = weight.reshape(batch * self.groups, self.weight_channels // self.groups,
                                self.kernel_size**2, height, width)
        out = local_aggregation(value, weight, self.kernel_size)
        return out.reshape(batch, channels, height, width)

    def mix(self, dynamic: Tensor, key: Tensor) -> Tensor:
        """Activate the dynamic context, and mix it with the static one."""
        dynamic = self.act(dynamic)
        check_pooled_norm(self.se[1], dynamic)
        context = spatial_mean(dynamic) + spatial_mean(key)
        logits = self.se(context)  # channels 2c and 2c + 1 belong to channel c of both contexts
        return mix(dynamic, key, (logits[:, ::2] - logits[:, 1::2]).sigmoid())
