"""Mean over the positions of a map."""
import torch
from torch import Tensor

from .autograd import has_own_backward


def spatial_mean(x: Tensor) -> Tensor:
    """``x.mean((2, 3), keepdim=True)``, whose gradient on a CPU is a view.

    PyTorch writes that gradient, which is the same at all positions, as a whole map in NCHW, to be
    added to one in channels_last.

    Args:
        x (Tensor): Feature map (B, C, H, W).

    Returns:
        Tensor: (B, C, 1, 1).
    """
    return _SpatialMean.apply(x) if has_own_backward(x) else x.mean((2, 3), keepdim=True)


class _SpatialMean(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return (grad / (ctx.shape[2] * ctx.shape[3])).expand(ctx.shape)
