"""Point-wise feed-forward network on feature maps."""
from mmengine.model import BaseModule
from torch import Tensor, nn


class ConvMlp(BaseModule):
    """Two 1x1 convolutions with an exact (erf) GELU between them.

    Args:
        embed_dims (int): Channels C of input and output.
        mlp_ratio (float): Hidden channels over C.
        init_cfg (dict, optional): Initialisation config.

    Shapes: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, embed_dims: int, mlp_ratio: float, init_cfg=None):
        super().__init__(init_cfg)
        hidden_dims = int(embed_dims * mlp_ratio)
        self.fc1 = nn.Conv2d(embed_dims, hidden_dims, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden_dims, embed_dims, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
