"""Point-wise feed-forward network on feature maps."""
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

# Hidden values of one chunk: 8 MB in float32, which stay in the cache and are never returned to the
# system. In float32 anything from 0.5 to 8 million is as fast; in bfloat16 the last stages prefer
# large chunks.
CHUNK_VALUES = 2**21


def may_overwrite(module: nn.Module) -> bool:
    """Whether maps that a module made itself may be overwritten: in evaluation, without gradients.

    Compilers and exporters get the plain form and choose their own way.
    """
    return not (module.training or torch.is_grad_enabled() or torch.jit.is_tracing()
                or torch.compiler.is_compiling())


def _chunks(x: Tensor, hidden_dims: int) -> Iterator[Tensor]:
    """Views that together are ``x``: images, or rows of an image, that a cache can hold."""
    if x.device.type != 'cpu' or not x.is_contiguous(memory_format=torch.channels_last):
        yield x
        return
    height, width = x.shape[-2:]
    for images in x.split(max(1, CHUNK_VALUES // (hidden_dims * height * width))):
        yield from images.split(max(1, CHUNK_VALUES // (hidden_dims * width * len(images))), dim=2)


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
            return self.fc2(torch.ops.aten.gelu_(self.fc1(x)))
        return self.fc2(self.act(self.fc1(x)))

    def add_to(self, x: Tensor, norm: nn.Module) -> Tensor:
        """``x += self(norm(x))`` in chunks, so that the hidden map never exists; returns ``x``.

        Args:
            x (Tensor): Feature map (B, C, H, W), overwritten. Chunks need the channels_last memory
                format and the CPU; otherwise there is a single one.
            norm (nn.Module): Acts on every position alone, as a batch norm does in evaluation.
        """
        transform = self
        if x.device.type == 'cpu' and x.dtype != torch.float32:
            # Measured with channels_last: products of matrices take 3/4 of the time of 1x1
            # convolutions in bfloat16 (Intel), and twice their time in float32 (AMD).
            transform = self._as_products(x.dtype)
        for chunk in _chunks(x, self.fc1.out_channels):
            chunk += transform(norm(chunk))
        return x

    def _as_products(self, dtype: torch.dtype):
        """The same function as products of matrices, with weights cast once."""
        fc1, fc2 = ((conv.weight.flatten(1).to(dtype), conv.bias.to(dtype))
                    for conv in (self.fc1, self.fc2))

        def transform(x: Tensor) -> Tensor:
            hidden = F.linear(x.permute(0, 2, 3, 1), *fc1)  # B C H W -> B H W C
            return F.linear(torch.ops.aten.gelu_(hidden), *fc2).permute(0, 3, 1, 2)

        return transform
