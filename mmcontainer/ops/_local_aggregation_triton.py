"""Local aggregation as Triton kernels, for CUDA.

A program computes one tile: some positions of some weight channels of one image. All S channels
that share the weights are in it, so that every weight is read from memory once. Gradients are
gathered, not scattered: nothing is added atomically, and the same inputs give the same bits. Sums
are made in float32 (float64 for that type).

Tiles are ``lanes`` of positions x weight channels: in a contiguous map neighbouring lanes are
neighbouring positions; in channels_last they are neighbouring weight channels, so that loads are
coalesced in both. Shape legend of :mod:`mmcontainer.ops.local_aggregation`.
"""
import torch
import triton
import triton.language as tl
from torch import Tensor

from ._local_aggregation_torch import empty_maps, in_layout_of, is_channels_last

# Values of x in a tile, shared among this number of warps of 32 threads: four per thread. All taps
# of a 3 x 3 window are loaded before they are summed up; with more values they would not fit into
# the 255 registers of a thread (tests/ops/test_triton_resources.py counts them).
TILE_ELEMENTS, NUM_WARPS = 512, 4
MIN_LANES, MAX_SHARING = 32, 64  # a warp of lanes at least
MAX_GRID_SIDE = 65535


def fits(x: Tensor, weight: Tensor) -> bool:
    """Tell whether the kernels can be used: offsets within an image are 32-bit integers."""
    sharing = x.shape[1] // weight.shape[2]
    outputs = weight.shape[1] * x[:1].numel()
    return (max(outputs, weight[:1].numel()) < 2**31 and sharing <= MAX_SHARING
            and max(len(x), weight.shape[2]) <= MAX_GRID_SIDE)


def aggregate(x: Tensor, weight: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Local aggregation of x (B, C, H, W) with weight (B, M, G, K, H, W)."""
    x, weight = in_layout_of(x, x), in_layout_of(x, weight)
    out = empty_maps((len(x), weight.shape[1] * x.shape[1], *x.shape[2:]), like=x)
    if out.numel():
        grid, sizes = _plan(x, weight, kernel_size, dilation)
        with torch.cuda.device_of(x):
            _forward_kernel[grid](x, weight, out, *_strides(x), *_strides(weight), *_strides(out),
                                  **sizes)
    return out


def aggregate_backward(grad: Tensor, x: Tensor, weight: Tensor, kernel_size: int,
                       dilation: int) -> tuple[Tensor, Tensor]:
    """Gradients to x and weight, from that to the output."""
    grad, x, weight = (in_layout_of(x, maps) for maps in (grad, x, weight))
    grad_x, grad_weight = empty_maps(x.shape, like=x), empty_maps(weight.shape, like=x)
    if x.numel() and weight.numel():
        grid, sizes = _plan(x, weight, kernel_size, dilation)
        with torch.cuda.device_of(x):
            _backward_kernel[grid](grad, x, weight, grad_x, grad_weight, *_strides(grad),
                                   *_strides(x), *_strides(weight), **sizes)
    else:
        grad_x.zero_(), grad_weight.zero_()
    return grad_x, grad_weight


def _strides(maps: Tensor) -> tuple[int, int, int]:
    """Distance between images, channels and positions; those of (M, G, K) are one by one."""
    flat = _flat_channels(maps)
    return flat.stride(0), flat.stride(1), flat.stride(2)


def _flat_channels(maps: Tensor) -> Tensor:
    """View (B, channels, N)."""
    channels = maps[0, ..., 0, 0].numel()
    return maps.view(len(maps), channels, -1) if maps.is_contiguous() else maps.movedim(
        (-2, -1), (1, 2)).view(len(maps), -1, channels).transpose(1, 2)


def _plan(x: Tensor, weight: Tensor, kernel_size: int, dilation: int) -> tuple[tuple, dict]:
    """Grid and sizes of the kernels."""
    batch, channels, height, width = x.shape
    heads, groups = weight.shape[1:3]
    sharing = channels // groups
    sharing_block = triton.next_power_of_2(sharing)
    lanes = max(TILE_ELEMENTS // sharing_block, MIN_LANES)
    group_block = min(triton.next_power_of_2(groups), 32) if is_channels_last(x) else 1
    position_block = lanes // group_block
    grid = (triton.cdiv(height * width, position_block), triton.cdiv(groups, group_block), batch)
    return grid, dict(
        height=height, width=width, heads=heads, groups=groups, sharing=sharing,
        KERNEL_SIZE=kernel_size, DILATION=dilation, SHARING_BLOCK=sharing_block,
        GROUP_BLOCK=group_block, POSITION_BLOCK=position_block,
        SUM_TYPE=tl.float64 if x.dtype == torch.float64 else tl.float32, num_warps=NUM_WARPS)


@triton.jit
def _lanes(height, width, groups, GROUP_BLOCK: tl.constexpr, POSITION_BLOCK: tl.constexpr):
    """Position, row, column and weight channel of every lane, and whether they exist."""
    lane = tl.arange(0, POSITION_BLOCK * GROUP_BLOCK)
    position = tl.program_id(0) * POSITION_BLOCK + lane // GROUP_BLOCK
    group = tl.program_id(1) * GROUP_BLOCK + lane % GROUP_BLOCK
    exists = (position < height * width) & (group < groups)
    return position, position // width, position % width, group, exists


@triton.jit
def _forward_kernel(
        x, weight, out,
        x_image, x_channel, x_position, weight_image, weight_channel, weight_position,
        out_image, out_channel, out_position,
        height, width, heads, groups, sharing,
        KERNEL_SIZE: tl.constexpr, DILATION: tl.constexpr, SHARING_BLOCK: tl.constexpr,
        GROUP_BLOCK: tl.constexpr, POSITION_BLOCK: tl.constexpr, SUM_TYPE: tl.constexpr):
    image = tl.program_id(2).to(tl.int64)
    x += image * x_image
    weight += image * weight_image
    out += image * out_image
    position, row, column, group, exists = _lanes(
        height, width, groups, GROUP_BLOCK, POSITION_BLOCK)
    shared = tl.arange(0, SHARING_BLOCK)[:, None]
    channel = shared * groups + group[None, :]
    is_channel = (shared < sharing) & exists[None, :]
    for head in range(heads):
        sums = tl.zeros((SHARING_BLOCK, POSITION_BLOCK * GROUP_BLOCK), dtype=SUM_TYPE)
        first_weight = (head * groups + group) * KERNEL_SIZE * KERNEL_SIZE
        for tap in tl.static_range(KERNEL_SIZE * KERNEL_SIZE):
            down = (tap // KERNEL_SIZE - KERNEL_SIZE // 2) * DILATION
            right = (tap % KERNEL_SIZE - KERNEL_SIZE // 2) * DILATION
            inside = ((row + down >= 0) & (row + down < height)
                      & (column + right >= 0) & (column + right < width))
            w = tl.load(weight + (first_weight + tap) * weight_channel + position * weight_position,
                        mask=exists & inside, other=0).to(SUM_TYPE)
            there = position + down * width + right
            seen = tl.load(x + channel * x_channel + there[None, :] * x_position,
                           mask=is_channel & inside[None, :], other=0).to(SUM_TYPE)
            sums += w[None, :] * seen
        tl.store(out + (head * groups * sharing + channel) * out_channel
                 + position[None, :] * out_position, sums.to(out.dtype.element_ty), mask=is_channel)


@triton.jit
def _backward_kernel(
        grad, x, weight, grad_x, grad_weight,
        grad_image, grad_channel, grad_position, x_image, x_channel, x_position,
        weight_image, weight_channel, weight_position,
        height, width, heads, groups, sharing,
        KERNEL_SIZE: tl.constexpr, DILATION: tl.constexpr, SHARING_BLOCK: tl.constexpr,
        GROUP_BLOCK: tl.constexpr, POSITION_BLOCK: tl.constexpr, SUM_TYPE: tl.constexpr):
    """Both gradients in one pass over the same neighbours.

    The weight of tap t at this position takes x of the neighbour there. x at this position takes
    the gradient of the neighbour there, which sees it through the opposite tap.
    """
    image = tl.program_id(2).to(tl.int64)
    grad += image * grad_image
    x += image * x_image
    grad_x += image * x_image
    weight += image * weight_image
    grad_weight += image * weight_image
    position, row, column, group, exists = _lanes(
        height, width, groups, GROUP_BLOCK, POSITION_BLOCK)
    shared = tl.arange(0, SHARING_BLOCK)[:, None]
    channel = shared * groups + group[None, :]
    is_channel = (shared < sharing) & exists[None, :]
    to_x = tl.zeros((SHARING_BLOCK, POSITION_BLOCK * GROUP_BLOCK), dtype=SUM_TYPE)
    for head in range(heads):
        first_weight = (head * groups + group) * KERNEL_SIZE * KERNEL_SIZE
        grads = grad + (head * groups * sharing + channel) * grad_channel
        here = tl.load(grads + position[None, :] * grad_position,
                       mask=is_channel, other=0).to(SUM_TYPE)
        for tap in tl.static_range(KERNEL_SIZE * KERNEL_SIZE):
            down = (tap // KERNEL_SIZE - KERNEL_SIZE // 2) * DILATION
            right = (tap % KERNEL_SIZE - KERNEL_SIZE // 2) * DILATION
            inside = ((row + down >= 0) & (row + down < height)
                      & (column + right >= 0) & (column + right < width))
            there = position + down * width + right
            is_value = is_channel & inside[None, :]
            seen = tl.load(x + channel * x_channel + there[None, :] * x_position,
                           mask=is_value, other=0).to(SUM_TYPE)
            tl.store(grad_weight + (first_weight + tap) * weight_channel
                     + position * weight_position,
                     tl.sum(here * seen, axis=0).to(grad_weight.dtype.element_ty), mask=exists)
            opposite = first_weight + KERNEL_SIZE * KERNEL_SIZE - 1 - tap
            w = tl.load(weight + opposite * weight_channel + there * weight_position,
                        mask=exists & inside, other=0).to(SUM_TYPE)
            theirs = tl.load(grads + there[None, :] * grad_position,
                             mask=is_value, other=0).to(SUM_TYPE)
            to_x += w[None, :] * theirs
    tl.store(grad_x + channel * x_channel + position[None, :] * x_position,
             to_x.to(grad_x.dtype.element_ty), mask=is_channel)
