"""Gated convolution of SE-CoTNetD: squeeze-and-excitation behind a 3x3 convolution."""
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..ops import spatial_mean
from .pooled_norm import check_pooled_norm


class GatedConv(BaseModule):
    """``u = SiLU(BN(conv3x3(x)))``, times a gate per channel computed from its spatial mean.

    ``gate = sigmoid(fc2(SiLU(BN(fc1(mean(u))))))``: ResNeSt's split attention with radix 1.

    Args:
        embed_dims (int): Channels C.
        stride (int): Stride of the convolution.
        norm_cfg (dict): Config of the batch norms.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: If a single image is trained on (in ``forward``).

    Shapes: (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)). Source: the code of
    arXiv 2107.12292 (``layers/split_attn.py``).
    """

    def __init__(self,
                 embed_dims: int,
                 stride: int = 1,
                 norm_cfg: dict = dict(type='BN'),  # noqa: B006
                 init_cfg=None):
        super().__init__(init_cfg)
        hidden = max(embed_dims // 4, 32)
        # Names are those of the official checkpoints.
        self.conv = nn.Conv2d(embed_dims, embed_dims, 3, stride=stride, padding=1, bias=False)
        self.bn0 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.fc1 = nn.Conv2d(embed_dims, hidden, 1)
        self.bn1 = build_norm_layer(norm_cfg, hidden)[1]
        self.fc2 = nn.Conv2d(hidden, embed_dims, 1)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn0(self.conv(x)))
        check_pooled_norm(self.bn1, x)
        gate = self.fc2(self.act(self.bn1(self.fc1(spatial_mean(x)))))
        return x * gate.sigmoid()
