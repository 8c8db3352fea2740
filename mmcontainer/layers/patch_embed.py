"""Non-overlapping patch embedding that opens every stage of a Container."""
from mmengine.model import BaseModule
from torch import Tensor, nn

from .map_norm import MapNorm
from .memory_format import as_stage_input


class PatchEmbed(BaseModule):
    """Strided convolution, then layer norm over the channels of each position.

    Rows and columns that do not fill a whole patch are dropped (floor division), as in the official
    code; so is its norm epsilon of 1e-5, although that code passes 1e-6 around.

    Args:
        in_channels (int): Channels of the input map.
        embed_dims (int): Channels of the output map.
        patch_size (int): Kernel size and stride of the convolution.
        init_cfg (dict, optional): Initialisation config.

    Shapes: (B, in_channels, H, W) -> (B, embed_dims, H // patch_size, W // patch_size). On the CPU
    the output has the channels_last memory format, which spares the convolutions that follow it
    many copies; on other devices it has that of the convolution.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int, init_cfg=None):
        super().__init__(init_cfg)
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)
        self.norm = MapNorm(embed_dims, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return as_stage_input(self.norm(x), x)
