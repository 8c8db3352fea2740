"""Point-wise feed-forward network on feature maps."""
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..ops import pointwise_mlp
from ..ops.autograd import has_own_backward
from .plain_parts import activation_name, is_hooked, is_pointwise


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
        if has_own_backward(x) and x.numel() and self._is_as_built():
            return pointwise_mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return self.fc2(self.act(self.fc1(x)))

    def _is_as_built(self) -> bool:
        convs = self.fc1, self.fc2
        return (all(type(conv) is nn.Conv2d and is_pointwise(conv) for conv in convs)
                and self.fc1.bias is not None and self.fc2.bias is not None
                and activation_name(self.act) == 'gelu'
                and not any(is_hooked(part) for part in self.children()))
