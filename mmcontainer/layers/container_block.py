"""The residual block that all members of the Container family share."""
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn

from .depthwise import DepthwiseConv2d
from .mlp import ConvMlp


class ContainerBlock(BaseModule):
    """Position embedding, context aggregation and MLP, each with its residual.

    ::

        x = x + DWConv3x3(x)
        x = x + DropPath(aggregation(BN(x)))
        x = x + DropPath(MLP(BN(x)))

    Args:
        aggregation (ContextAggregation): Maps (B, C, H, W) to (B, C, H, W). The block does not know
            which affinity it holds.
        embed_dims (int): Channels C.
        mlp_ratio (float): Hidden channels of the MLP over C.
        conv_pos_embed (bool): Without it the first line above is missing.
        drop_path_rate (float): Probability to drop a branch of one sample during training.
        norm_cfg (dict): Config of the batch norms.
        init_cfg (dict, optional): Initialisation config.

    Shapes: (B, C, H, W) -> (B, C, H, W). Source: arXiv 2106.01401, section 3.4, and its code.
    """

    def __init__(self,
                 aggregation: nn.Module,
                 embed_dims: int,
                 mlp_ratio: float = 4.,
                 conv_pos_embed: bool = True,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict = dict(type='BN'),  # noqa: B006
                 init_cfg=None):
        super().__init__(init_cfg)
        self.pos_embed = None
        if conv_pos_embed:
            self.pos_embed = DepthwiseConv2d(embed_dims, 3)
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.aggregation = aggregation
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.mlp = ConvMlp(embed_dims, mlp_ratio)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed is not None:
            x = x + self.pos_embed(x)
        x = x + self.drop_path(self.aggregation(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
