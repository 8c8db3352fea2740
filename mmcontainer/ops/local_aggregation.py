"""Local aggregation: every position mixes its k x k neighbours with weights of its own.

The operator of Contextual Transformer networks (CoTNet, arXiv 2107.12292). As an affinity matrix
A of size N x N it is sparse: row i holds the k*k weights of position i, at its neighbours' columns.

Shape legend: B batch, C channels, H and W spatial size, M heads, G weight channels, S = C / G
channels that share a weight, K = k*k taps.

    out[b, m*C + c, y, x] = sum over taps (row, col) of
        weight[b, m, c mod G, k*row + col, y, x] * x[b, c, y + d*(row - r), x + d*(col - r)]

with dilation d and r = (k - 1) / 2; x is 0 outside the map. Channels that share a weight are
c, c + G, c + 2G ...: strided, not neighbours.
"""
import torch.nn.functional as F
from torch import Tensor


def local_aggregation(x: Tensor, weight: Tensor, kernel_size: int = 3, dilation: int = 1) -> Tensor:
    """Mix the k x k neighbours of every position with the weights of that position.

    Args:
        x (Tensor): Feature map (B, C, H, W).
        weight (Tensor): Weights (B, G, K, H, W), or (B, M, G, K, H, W) with several heads. Tap
            k*row + col belongs to the neighbour in that row and column of the window.
        kernel_size (int): Size k of the window, odd.
        dilation (int): Distance between neighbouring taps.

    Returns:
        Tensor: (B, M*C, H, W); channel m*C + c is channel c seen by head m.

    Raises:
        ValueError: If shapes, types or devices do not fit together.
    """
    _check(x, weight, kernel_size, dilation)
    return _shifted_taps(x, weight, kernel_size, dilation)


def unfold_local_aggregation(
        x: Tensor, weight: Tensor, kernel_size: int = 3, dilation: int = 1) -> Tensor:
    """Explicit twin of :func:`local_aggregation`: copies x k*k times, then multiplies and sums."""
    _check(x, weight, kernel_size, dilation)
    batch, channels, height, width = x.shape
    weight = weight if weight.dim() == 6 else weight[:, None]
    _, heads, groups, taps = weight.shape[:4]
    padding = dilation * (kernel_size - 1) // 2
    if 0 in x.shape:  # which F.unfold does not accept
        return (x * weight.sum()).repeat(1, heads, 1, 1)
    columns = F.unfold(x, kernel_size, dilation, padding)
    columns = columns.view(batch, 1, channels // groups, groups, taps, height, width)
    return (columns * weight[:, :, None]).sum(4).view(batch, heads * channels, height, width)


def _shifted_taps(x: Tensor, weight: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Sum of shifted products, in plain operators."""
    batch, channels, height, width = x.shape
    weight = weight if weight.dim() == 6 else weight[:, None]
    heads, groups = weight.shape[1:3]
    padding = dilation * (kernel_size - 1) // 2
    x = F.pad(x, (padding, ) * 4).unflatten(1, (1, channels // groups, groups))
    out = 0
    for tap in range(kernel_size**2):
        top, left = (dilation * offset for offset in divmod(tap, kernel_size))
        out = out + weight[:, :, None, :, tap] * x[..., top:top + height, left:left + width]
    return out.reshape(batch, heads * channels, height, width)


def _check(x: Tensor, weight: Tensor, kernel_size: int, dilation: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f'local_aggregation needs an odd kernel_size, found {kernel_size}.')
    if dilation < 1:
        raise ValueError(f'local_aggregation needs dilation >= 1, found {dilation}.')
    if x.dim() != 4 or weight.dim() not in (5, 6):
        raise ValueError(
            'local_aggregation needs x (B, C, H, W) and weight (B, G, k*k, H, W), or (B, heads, G, '
            f'k*k, H, W); found x {tuple(x.shape)} and weight {tuple(weight.shape)}.')
    groups, taps = weight.shape[-4:-2]
    if taps != kernel_size**2:
        raise ValueError(
            f'A window of {kernel_size} x {kernel_size} needs {kernel_size**2} weights per '
            f'position in dimension -3 of weight; found weight {tuple(weight.shape)}.')
    if weight.shape[0] != x.shape[0] or weight.shape[-2:] != x.shape[-2:]:
        raise ValueError(
            'Every position of x needs its own weights: batch, height and width must be equal; '
            f'found x {tuple(x.shape)} and weight {tuple(weight.shape)}.')
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(
            f'The channels of x must be a multiple of the weight channels: found {x.shape[1]} '
            f'channels and {groups} weight channels.')
