"""Re-parameterisation for inference: fixed linear steps folded into a neighbouring convolution."""
import torch
from torch import Tensor, nn


@torch.no_grad()
def fold_norm_into_conv(norm: nn.Module, conv: nn.Conv2d) -> None:
    """Fold a batch norm into the 1x1 convolution that follows it, in place.

    Exact up to rounding because a 1x1 convolution has no padding. The folded weights are computed
    in float64.

    Args:
        norm (nn.Module): Any batch norm with running statistics, over the convolution's inputs.
        conv (nn.Conv2d): 1x1 convolution with bias.

    Raises:
        ValueError: If the convolution is not 1x1 (with padding the fold would be wrong at borders).
    """
    if conv.kernel_size != (1, 1) or conv.padding not in ((0, 0), 'valid'):
        raise ValueError('A norm can be folded only into an unpadded 1x1 convolution, '
                         f'got kernel {conv.kernel_size} with padding {conv.padding}.')
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    weight = conv.weight.double().flatten(1)
    conv.bias.copy_(conv.bias.double() + weight @ shift)
    conv.weight.copy_((weight * scale).view_as(conv.weight))


@torch.no_grad()
def add_identity_to_depthwise(weight: Tensor) -> None:
    """Fold the residual of ``x + conv(x)`` into depth-wise kernels (C, 1, k, k), in place."""
    centre = weight.shape[-1] // 2
    weight[:, 0, centre, centre] += 1
