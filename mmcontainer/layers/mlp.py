"""Point-wise feed-forward network on feature maps."""
from collections.abc import Iterator

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from .inference import infer_pointwise, may_overwrite

# Of the hidden map of one chunk: that much is never returned to the system. Smaller chunks are
# slower, because oneDNN lays out the weights anew in every call.
CHUNK_BYTES = 2**23


def _chunks(x: Tensor, hidden_dims: int) -> Iterator[Tensor]:
    """Views that together are ``x``: images, or rows of an image, that a cache can hold."""
    if x.device.type != 'cpu' or not x.is_contiguous(memory_format=torch.channels_last):
        yield x
        return
    height, width = x.shape[-2:]
    values = CHUNK_BYTES // x.element_size()
    for images in x.split(max(1, values // (hidden_dims * height * width))):
        yield from images.split(max(1, values // (hidden_dims * width * len(images))), dim=2)


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
        if may_overwrite(self):
            return infer_pointwise(self.fc2, infer_pointwise(self.fc1, x, self.act))
        return self.fc2(self.act(self.fc1(x)))

    def add_to(self, x: Tensor, norm: nn.Module) -> Tensor:
        """``x += self(norm(x))`` in chunks, so that the hidden map never exists; returns ``x``.

        Args:
            x (Tensor): Feature map (B, C, H, W), overwritten. Chunks need the channels_last memory
                format and the CPU; otherwise there is a single one.
            norm (nn.Module): Acts on every position alone, as a batch norm does in evaluation.
        """
        for chunk in _chunks(x, self.fc1.out_channels):
            hidden = infer_pointwise(self.fc1, norm(chunk), self.act)
            infer_pointwise(self.fc2, hidden, out=chunk)
        return x
