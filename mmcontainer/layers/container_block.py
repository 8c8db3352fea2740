"""The residual block that all members of the Container family share."""
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import add_identity_to_depthwise, fold_norm_into_conv
from .inference import may_overwrite
from .mlp import ConvMlp


class ContainerBlock(BaseModule):
    """Position embedding, context aggregation and MLP, each with its residual.

    ::

        x = x + DWConv3x3(x)
        x = x + DropPath(aggregation(BN(x)))
        x = x + DropPath(MLP(BN(x)))

    In evaluation without gradients the last two lines work in place, the last one in chunks of rows
    (:meth:`ConvMlp.add_to`): its hidden map would be the largest of the whole network.

    Args:
        aggregation (ContextAggregation): Maps (B, C, H, W) to (B, C, H, W); its first layer is a
            1x1 convolution called ``in_proj``. The block does not know which affinity it holds.
        embed_dims (int): Channels C.
        mlp_ratio (float): Hidden channels of the MLP over C.
        conv_pos_embed (bool): Without it the first line above is missing.
        drop_path_rate (float): Probability to drop a branch of one sample during training.
        norm_cfg (dict): Config of the batch norms.
        with_cp (bool): Recompute aggregation and MLP in the backward pass instead of keeping their
            activations. The norms stay outside of the recomputed part, so that their running
            statistics are updated once per step.
        init_cfg (dict, optional): Initialisation config.

    Shapes: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self,
                 aggregation: nn.Module,
                 embed_dims: int,
                 mlp_ratio: float = 4.,
                 conv_pos_embed: bool = True,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict = dict(type='BN'),  # noqa: B006
                 with_cp: bool = False,
                 init_cfg=None):
        super().__init__(init_cfg)
        self.with_cp = with_cp
        self.deployed = False
        self.pos_embed = None
        if conv_pos_embed:
            self.pos_embed = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.aggregation = aggregation
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.mlp = ConvMlp(embed_dims, mlp_ratio)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed is not None:
            x = self.pos_embed(x) if self.deployed else x + self.pos_embed(x)
        if may_overwrite(self) and not self.norm2.training:
            # Without a position embedding x still is the caller's map.
            x = x.clone() if self.pos_embed is None else x
            self.aggregation(self.norm1(x), out=x)
            return self.mlp.add_to(x, self.norm2)
        x = x + self.drop_path(self._maybe_recompute(self.aggregation, self.norm1(x)))
        return x + self.drop_path(self._maybe_recompute(self.mlp, self.norm2(x)))

    def _maybe_recompute(self, module: nn.Module, x: Tensor) -> Tensor:
        if self.with_cp and x.requires_grad:
            return checkpoint(module, x, use_reentrant=False)
        return module(x)

    def switch_to_deploy(self) -> None:
        """Fold both norms and the identity of the position embedding, in place."""
        if self.deployed:
            return
        fold_norm_into_conv(self.norm1, self.aggregation.in_proj)
        fold_norm_into_conv(self.norm2, self.mlp.fc1)
        if self.pos_embed is not None:
            add_identity_to_depthwise(self.pos_embed.weight)
        self.norm1, self.norm2 = nn.Identity(), nn.Identity()
        self.deployed = True
