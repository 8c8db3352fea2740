"""The projection head of DINO."""
import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose row j is ``g_j v_j / |v_j|``.

    PyTorch's weight norm names its parameters otherwise than DINO's files do, in its present form,
    and cannot be copied after a forward in its older one.

    Args:
        in_channels (int): Width of the input.
        out_channels (int): Rows.
        train_norm (bool): Train the lengths g; otherwise they stay 1.
    """

    def __init__(self, in_channels: int, out_channels: int, train_norm: bool = False):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_channels, 1), requires_grad=train_norm)
        self.weight_v = nn.Parameter(nn.Linear(in_channels, out_channels, bias=False).weight.data)

    def forward(self, x: Tensor) -> Tensor:
        length = self.weight_v.norm(dim=1, keepdim=True)
        return F.linear(x, self.weight_v * (self.weight_g / length))


@MODELS.register_module()
class DINOHead(BaseModule):
    """Three linear layers, an L2 norm, and a weight-normalised layer (arXiv 2104.14294, appendix).

    Args:
        in_channels (int): Width C of the embeddings.
        out_channels (int): Width K of the outputs.
        hidden_channels (int): Width between the linear layers.
        bottleneck_channels (int): Width of what is normalised.
        norm_last_layer (bool): Keep the rows of the last layer at length 1; DINO's default.
        init_cfg (dict, optional): See :class:`mmengine.model.BaseModule`.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int = 65536,
                 hidden_channels: int = 2048,
                 bottleneck_channels: int = 256,
                 norm_last_layer: bool = True,
                 init_cfg=None):
        super().__init__(init_cfg)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.mlp = nn.Sequential(
            nn.Linear(in_channels, hidden_channels), nn.GELU(),
            nn.Linear(hidden_channels, hidden_channels), nn.GELU(),
            nn.Linear(hidden_channels, bottleneck_channels))
        self.last_layer = WeightNormLinear(
            bottleneck_channels, out_channels, train_norm=not norm_last_layer)

    def init_weights(self) -> None:
        """Initialise as DINO does: the linear layers; the last one is as PyTorch makes it."""
        super().init_weights()
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Project embeddings: (N, C) -> (N, K)."""
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))
