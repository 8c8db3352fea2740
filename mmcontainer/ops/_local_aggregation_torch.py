"""Local aggregation in PyTorch operators, with neither its k*k-fold copy nor a large temporary.

The maps are worked off in slabs, sized to stay in a core's cache: some rows of some channels of one
image, or several small images. A slab is held channel by channel, its rows end to end, so that
every tap is one multiply-add of long contiguous runs, and its neighbours are a fixed offset away in
the run. A neighbour to the side of the last column would lie in the next row; for each column of
the window the values that would be taken wrongly are set to zero in a copy of the slab. Half
precision is summed up in float32.

Shape legend of :mod:`mmcontainer.ops.local_aggregation`; b images and L = rows * W positions of a
slab. Maps in channels_last are transposed slab by slab.
"""
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def slab_elements(device: torch.device) -> int:
    """Elements of x in a slab: on a CPU what fits every thread's cache."""
    # On other devices launches cost more than cache misses.
    return 2**18 * torch.get_num_threads() if device.type == 'cpu' else 2**26


def is_channels_last(maps: Tensor) -> bool:
    """Tell whether (B, ..., H, W) is stored position by position, all channels of one together."""
    return not maps.is_contiguous() and _positions_first(maps).is_contiguous()


def empty_maps(shape: Sequence[int], like: Tensor) -> Tensor:
    """New maps (B, ..., H, W) in the layout of other maps: channels_last, or else contiguous."""
    if is_channels_last(like):
        batch, *channels, height, width = shape
        return _positions_last(like.new_empty(batch, height, width, *channels))
    return like.new_empty(shape)


def in_layout_of(like: Tensor, maps: Tensor) -> Tensor:
    """Maps in the layout of other maps; copied only if they are in another one."""
    if is_channels_last(like):
        return _positions_last(_positions_first(maps).contiguous())
    return maps.contiguous()


def aggregate(x: Tensor, weight: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Local aggregation of x (B, C, H, W) with weight (B, M, G, K, H, W)."""
    heads, groups = weight.shape[1:3]
    out = empty_maps((len(x), heads * x.shape[1], *x.shape[2:]), like=x)
    if out.numel() == 0:
        return out
    weight = in_layout_of(x, weight)
    x = in_layout_of(x, x).unflatten(1, (-1, groups))
    grouped_out = out.unflatten(1, (heads, -1, groups))
    buffers = _Buffers(x)
    for slab in _slabs(x, kernel_size, dilation):
        values, weights = _load(x, slab.surroundings), _load(weight, slab)
        result = _Result(grouped_out, slab, buffers, group_axis=3)
        sums, weights = result.runs.unbind(1), _by_head_and_tap(weights[:, :, None])
        add = _multiply  # the first tap, the centre, reaches every position
        for column, offset in slab.columns():
            inside = _without_columns(values, offset, slab.width, buffers)
            for tap, here, there, length in slab.taps_of(column, offset):
                seen = inside.narrow(-1, there, length)
                for head in range(heads):
                    add(sums[head].narrow(-1, here, length),
                        weights[head][tap].narrow(-1, here, length), seen)
                add = Tensor.addcmul_
        result.store()
    return out


def aggregate_backward(grad: Tensor, x: Tensor, weight: Tensor, kernel_size: int,
                       dilation: int) -> tuple[Tensor, Tensor]:
    """Gradients to x and weight, from that to the output."""
    heads, groups = weight.shape[1:3]
    grad_x, grad_weight = empty_maps(x.shape, like=x), empty_maps(weight.shape, like=x)
    if grad.numel() == 0:
        return grad_x.zero_(), grad_weight.zero_()
    weight = in_layout_of(x, weight)
    grad = in_layout_of(x, grad).unflatten(1, (heads, -1, groups))
    x = in_layout_of(x, x).unflatten(1, (-1, groups))
    buffers, to_x = _Buffers(x), _OverlappingResult(grad_x.unflatten(1, (-1, groups)))
    for slab in _slabs(x, kernel_size, dilation):
        values, weights, upstream = (_load(x, slab.surroundings), _load(weight, slab),
                                     _load(grad, slab, group_axis=3))
        to_values = to_x.start(slab, buffers)
        to_weight = _Result(grad_weight, slab, buffers)
        to_weights = _by_head_and_tap(to_weight.runs)
        weights = _by_head_and_tap(weights[:, :, None])
        products = buffers.get('products', upstream[:, 0].shape)
        for column, offset in slab.columns():
            inside = _without_columns(upstream, -offset, slab.width, buffers).unbind(1)
            for tap, here, there, length in slab.taps_of(column, offset):
                seen, to_seen = (t.narrow(-1, there, length) for t in (values, to_values))
                product = products.narrow(-1, 0, length)
                for head in range(heads):
                    above = inside[head].narrow(-1, here, length)
                    to_seen.addcmul_(weights[head][tap].narrow(-1, here, length), above)
                    torch.mul(above, seen, out=product)
                    torch.sum(product, 1, out=_zero_around(to_weights[head][tap], here, length))
        to_weight.store()
        to_x.finish(slab)
    return grad_x, grad_weight


class _Slab(NamedTuple):
    """Rows top ... bottom - 1 of some weight channels of some images, and the window size."""
    images: slice
    groups: slice
    top: int
    bottom: int
    height: int
    width: int
    kernel_size: int
    dilation: int

    @property
    def length(self) -> int:
        return (self.bottom - self.top) * self.width

    @property
    def padding(self) -> int:
        """Positions that a window reaches beyond its centre."""
        return self.dilation * (self.kernel_size // 2)

    @property
    def surroundings(self) -> '_Slab':
        """The rows that the windows reach."""
        return self._replace(top=max(self.top - self.padding, 0),
                             bottom=min(self.bottom + self.padding, self.height))

    def columns(self) -> list[tuple[int, int]]:
        """(number, offset) of the columns of the window, the one in the middle first."""
        return _from_the_middle(self.kernel_size, self.dilation)

    def taps_of(self, column: int, offset: int) -> Iterator[tuple[int, int, int, int]]:
        """(tap, first position, where that looks in the surroundings, number) inside the map."""
        surroundings = self.surroundings
        for row, down in _from_the_middle(self.kernel_size, self.dilation):
            top, bottom = max(self.top, -down), min(self.bottom, self.height - down)
            # The offset to the side may lead out of the run, at its very start or end.
            there = (top + down - surroundings.top) * self.width + offset
            start, stop = max(there, 0), min(there + (bottom - top) * self.width,
                                             surroundings.length)
            tap = row * self.kernel_size + column
            if start < stop:
                yield tap, (top - self.top) * self.width + start - there, start, stop - start
            else:
                yield tap, 0, 0, 0


def _slabs(x: Tensor, kernel_size: int, dilation: int) -> Iterator[_Slab]:
    """Cut maps, x (B, S, G, H, W), into slabs; the rows of an image follow from top to bottom."""
    batch, sharing, groups, height, width = x.shape
    elements = slab_elements(x.device)
    # Memory is best read in long runs: all channels of a position in channels_last, else all
    # positions of a channel.
    together = groups if is_channels_last(x) else 1
    rows = min(height, max(1, elements // (sharing * together * width)))
    rows = _equal_parts(height, rows)
    if rows == height:
        together = min(groups, max(together, elements // (sharing * height * width)))
        together = _equal_parts(groups, together)
    images = 1
    if rows == height and together == groups:
        images = max(1, elements // (sharing * groups * height * width))
    for image in range(0, batch, images):
        for group in range(0, groups, together):
            for top in range(0, height, rows):
                yield _Slab(slice(image, min(image + images, batch)),
                            slice(group, min(group + together, groups)), top,
                            min(top + rows, height), height, width, kernel_size, dilation)


def _equal_parts(number: int, most: int) -> int:
    """Size of the parts of a number that has at most ``most`` in each, none being much smaller."""
    return math.ceil(number / math.ceil(number / most))


def _positions_first(maps: Tensor) -> Tensor:
    """(B, ..., H, W) -> (B, H, W, ...)"""
    return maps.movedim((-2, -1), (1, 2))


def _positions_last(maps: Tensor) -> Tensor:
    """(B, H, W, ...) -> (B, ..., H, W)"""
    return maps.movedim((1, 2), (-2, -1))


def _runs_of(maps: Tensor, slab: _Slab, group_axis: int) -> Tensor:
    """View (b, ..., L) of a slab."""
    maps = maps.narrow(group_axis, slab.groups.start, slab.groups.stop - slab.groups.start)
    return maps[slab.images, ..., slab.top:slab.bottom, :].flatten(-2)


def _sum_type(maps: Tensor) -> torch.dtype:
    return torch.float32 if maps.dtype.itemsize < 4 else maps.dtype


def _transpose(matrices: Tensor) -> Tensor:
    """Contiguous copy (b, n, m) of contiguous matrices (b, m, n)."""
    if matrices.device.type != 'cpu':
        return matrices.transpose(1, 2).contiguous()
    # PyTorch's fastest transposition on a CPU, three times as fast as a copy: channels n*m of a
    # single position, in channels_last, shuffled in m groups.
    batch, rows, columns = matrices.shape
    one_position = matrices.reshape(batch, 1, 1, rows * columns).permute(0, 3, 1, 2)
    return torch.native_channel_shuffle(one_position, rows).view(batch, columns, rows)


def _load(maps: Tensor, slab: _Slab, group_axis: int = 2) -> Tensor:
    """Runs (b, ..., L) of a slab in the type of sums; a view where the maps are stored that way."""
    runs = _runs_of(maps, slab, group_axis)
    if runs.stride(-1) == 1:
        return runs.to(_sum_type(runs))
    positions = runs.movedim(-1, 1).to(_sum_type(runs))
    return _transpose(positions.flatten(2)).view(runs.shape)


def _from_the_middle(kernel_size: int, dilation: int) -> list[tuple[int, int]]:
    """(number, offset) of the rows or columns of a window, the nearest ones first."""
    numbered = ((i, dilation * (i - kernel_size // 2)) for i in range(kernel_size))
    return sorted(numbered, key=lambda item: abs(item[1]))


def _multiply(out: Tensor, weight: Tensor, values: Tensor) -> None:
    torch.mul(weight, values, out=out)


def _zero_around(runs: Tensor, first: int, length: int) -> Tensor:
    """The part of the runs that is about to be written; the rest becomes zero."""
    runs[..., :first] = 0
    runs[..., first + length:] = 0
    return runs.narrow(-1, first, length)


def _by_head_and_tap(weights: Tensor) -> list[tuple[Tensor, ...]]:
    """Views of the weights (b, M, ..., K, L) of every tap; made at once, since views take time."""
    return [head.unbind(-2) for head in weights.unbind(1)]


class _Buffers:
    """Memory that is used again for every slab. Fresh memory costs a page fault every 4 KB."""

    def __init__(self, like: Tensor):
        self._like, self._buffers = like, {}

    def get(self, name: str, shape: Sequence[int]) -> Tensor:
        """The buffer of this name as a contiguous tensor, in the type of sums."""
        size = math.prod(shape)
        if name not in self._buffers or len(self._buffers[name]) < size:
            self._buffers[name] = torch.empty(
                size, dtype=_sum_type(self._like), device=self._like.device)
        return self._buffers[name][:size].view(shape)


class _Result:
    """Runs (b, ..., L) of a slab to compute; a part of the result itself where possible."""

    def __init__(self, maps: Tensor, slab: _Slab, buffers: _Buffers, group_axis: int = 2):
        self._target = _runs_of(maps, slab, group_axis)
        self.runs = self._target
        if is_channels_last(maps) or _sum_type(maps) != maps.dtype:
            self.runs = buffers.get('result', self._target.shape)

    def store(self) -> None:
        if self.runs is not self._target:
            _store(self._target, self.runs)


class _OverlappingResult:
    """Sums over the surroundings of slabs, where one slab adds to rows of the one above."""

    def __init__(self, maps: Tensor):
        self._maps = maps
        # Where sums can be made in the result itself, nothing needs to be stored or kept.
        self._in_place = not is_channels_last(maps) and _sum_type(maps) == maps.dtype
        self._runs = self._unfinished = None

    def start(self, slab: _Slab, buffers: _Buffers) -> Tensor:
        """Runs of the slab's surroundings to add to: what was added so far."""
        overlap = 0
        if slab.top:
            last = min(slab.top + slab.padding, slab.height)
            overlap = (last - slab.surroundings.top) * slab.width
        self._runs = _runs_of(self._maps, slab.surroundings, 2)
        if not self._in_place:
            self._runs = buffers.get('overlapping', self._runs.shape)
            if overlap:
                self._runs[..., :overlap] = self._unfinished
        self._runs[..., overlap:] = 0
        return self._runs

    def finish(self, slab: _Slab) -> None:
        """Store the rows that no further slab adds to, and keep the others for the next slab."""
        if self._in_place:
            return
        bottom = slab.bottom if slab.bottom == slab.height else slab.bottom - slab.padding
        above = slab.surroundings.top
        finished = slab._replace(top=above, bottom=max(above, bottom))
        if finished.length:
            _store(_runs_of(self._maps, finished, 2), self._runs[..., :finished.length])
        self._unfinished = self._runs[..., finished.length:].clone()


def _store(target: Tensor, runs: Tensor) -> None:
    """Copy runs (b, ..., L) into the maps ``target`` is a view of."""
    if target.stride(-1) != 1:
        batch, *channels, length = runs.shape
        runs = runs.reshape(batch, -1, length)
        target, runs = target.movedim(-1, 1), _transpose(runs).view(batch, length, *channels)
    target.copy_(runs)


def _without_columns(runs: Tensor, offset: int, width: int, buffers: _Buffers) -> Tensor:
    """A copy without the columns that nothing sees that looks ``offset`` places to the right.

    Looking along the run, the last column would see the first one of the next row instead of
    nothing, and so on. It sees zero instead, as in padding; the weight of that zero is a number in
    any network that still works.
    """
    if offset == 0:
        return runs
    copy = buffers.get('without columns', runs.shape)
    copy.copy_(runs)
    columns = copy.unflatten(-1, (-1, width))
    (columns[..., :offset] if offset > 0 else columns[..., offset:]).zero_()
    return copy
