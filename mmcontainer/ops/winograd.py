"""3 x 3 convolution by Winograd's F(2 x 2, 3 x 3): 16 products per 4 outputs in place of 36.

Maps are cut into tiles of 4 x 4 positions that overlap by two and give 2 x 2 outputs each. Tiles
and kernels are transformed by small fixed matrices; what remains is one matrix product per place in
a tile. Source: Lavin and Gray, arXiv 1509.09308, section 4.1.

Shape legend: B batch, C and K channels in and out, H x W positions, T x U tiles, T = ceil(H / 2).
"""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the transformed tiles of a chunk, for a core's cache to hold them.
CHUNK_BYTES = 2**22
_KERNEL_TRANSFORM = ((1., 0., 0.), (.5, .5, .5), (.5, -.5, .5), (0., 0., 1.))


def winograd_kernels(weight: Tensor) -> Tensor:
    """Transformed kernels (16, C, K) of weight (K, C, 3, 3), computed in float64."""
    transform = torch.tensor(_KERNEL_TRANSFORM, dtype=torch.float64, device=weight.device)
    kernels = torch.einsum('ai,kcij,bj->abck', transform, weight.double(), transform)
    return kernels.flatten(0, 1).to(weight.dtype).contiguous()


def winograd_conv2d(x: Tensor, kernels: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """3 x 3 convolution with stride 1 and zero padding of 1, without gradients.

    NaN and infinity in the input reach one position further than by direct sums, as NaN.

    Args:
        x (Tensor): Feature map (B, C, H, W).
        kernels (Tensor): (16, C, K), of :func:`winograd_kernels`.
        bias (Tensor, optional): (K, ).

    Returns:
        Tensor: (B, K, H, W) in channels_last.
    """
    batch, channels, height, width = x.shape
    rows, columns, out_channels = -(-height // 2), -(-width // 2), kernels.shape[2]
    # B C H W -> B H W C, with what the tiles need around: even sizes and a border of one.
    padded = F.pad(x.permute(0, 2, 3, 1),
                   (0, 0, 1, 2 * columns - width + 1, 1, 2 * rows - height + 1))
    out = x.new_empty(batch, 2 * rows, 2 * columns, out_channels)
    most = max(1, CHUNK_BYTES // (16 * columns * channels * x.element_size()))
    images, together = max(1, most // rows), min(most, rows)
    for first in range(0, batch, images):
        some = slice(first, min(first + images, batch))
        for top in range(0, rows, together):
            bottom = min(top + together, rows)
            _convolve_tiles(padded[some, 2 * top:2 * bottom + 2], kernels, bias,
                            out[some, 2 * top:2 * bottom])
    return out[:, :height, :width].permute(0, 3, 1, 2)


def _convolve_tiles(x: Tensor, kernels: Tensor, bias: Optional[Tensor], out: Tensor) -> None:
    """Tiles of x (b, 2 T + 2, 2 U + 2, C) to out (b, 2 T, 2 U, K)."""
    batch, height, width, channels = x.shape
    rows, columns = height // 2 - 1, width // 2 - 1
    # Along one axis a tile (d0, d1, d2, d3) becomes (d0 - d2, d1 + d2, d2 - d1, d1 - d3).
    half = x.new_empty(4, batch, rows, width, channels)
    _transform([x[:, i:i + 2 * rows - 1:2] for i in range(4)], half.unbind(0))
    tiles = x.new_empty(4, 4, batch, rows, columns, channels)
    _transform([half[:, :, :, i:i + 2 * columns - 1:2] for i in range(4)], tiles.unbind(1))
    products = torch.bmm(tiles.view(16, -1, channels), kernels)
    products = products.view(4, 4, batch, rows, columns, -1)
    # And products (m0, m1, m2, m3) become the two outputs m0 + m1 + m2 and m1 - m2 - m3.
    out = out.view(batch, rows, 2, columns, 2, -1)
    upper = (products[1] + products[2]).add_(products[0])
    lower = torch.sub(products[1], products[2], out=products[1]).sub_(products[3])
    for row, sums in enumerate((upper, lower)):
        left, right = out[:, :, row, :, 0], out[:, :, row, :, 1]
        torch.add(sums[1], sums[2], out=left).add_(sums[0])
        torch.sub(sums[1], sums[2], out=right).sub_(sums[3])
    if bias is not None:
        out += bias


def _transform(parts: list[Tensor], outs: tuple[Tensor, ...]) -> None:
    torch.sub(parts[0], parts[2], out=outs[0])
    torch.add(parts[1], parts[2], out=outs[1])
    torch.sub(parts[2], parts[1], out=outs[2])
    torch.sub(parts[1], parts[3], out=outs[3])
