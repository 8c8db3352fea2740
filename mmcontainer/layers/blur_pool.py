"""Antialiased down-sampling."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.autograd import needs_deterministic_gradient


def _pad_by_slices(x: Tensor, dim: int, inner: int) -> Tensor:
    """Put the row or column that lies ``inner`` ones inside of a border before it."""
    last = x.shape[dim] - 1 - inner
    return torch.cat([x.narrow(dim, inner, 1), x, x.narrow(dim, last, 1)], dim)


class BlurPool(nn.Module):
    """Blur with the binomial 3x3 kernel, then keep every second row and column.

    The border is reflected. There are no parameters and no entries in the state dict.

    Args:
        channels (int): Channels C.

    Shapes: (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2)), H and W at least 2. Source: Zhang,
    arXiv 1904.11486.
    """

    def __init__(self, channels: int):
        super().__init__()
        taps = torch.tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(taps, taps).expand(channels, 1, 3, 3).contiguous()
        self.register_buffer('kernel', kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # A map of one row or column has nothing to reflect; its border is repeated instead.
        reflects = torch.jit.is_tracing() or min(x.shape[-2:]) > 1
        if needs_deterministic_gradient():
            for dim in (2, 3):
                x = _pad_by_slices(x, dim, inner=1 if reflects else 0)
        else:
            x = F.pad(x, (1, 1, 1, 1), mode='reflect' if reflects else 'replicate')
        return F.conv2d(x, self.kernel.to(x.dtype), stride=2, groups=self.kernel.shape[0])
