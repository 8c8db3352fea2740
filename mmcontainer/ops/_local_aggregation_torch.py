"""Local aggregation in PyTorch operators, with neither its k*k-fold copy nor a large temporary.

The maps are worked off in slabs: some rows of one image, or several small images, sized to stay in
a core's cache. A slab is held channel by channel, its rows end to end, so that every tap is one
multiply-add of long contiguous runs: a step of one row is an offset of W in the run. A step to the
side would run over into the next row, so for each column of the window the slab is copied once,
shifted to the side and filled up with zeros. Half precision is summed up in float32.

Shape legend of :mod:`mmcontainer.ops.local_aggregation`; b images and L = rows * W positions of a
slab. Maps in channels_last are transposed slab by slab.
"""
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

import torch
from torch import Tensor

# Elements of x in one slab. On other devices than the CPU launches cost more than cache misses.
SLAB_ELEMENTS = {'cpu': 2**17}
SLAB_ELEMENTS_ELSEWHERE = 2**26


def is_channels_last(maps: Tensor) -> bool:
    """Whether (B, ..., H, W) is stored position by position, all channels of one together."""
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
    for slab in _slabs(x, kernel_size, dilation):
        values, weights = _load(x, slab.surroundings), _load(weight, slab)
        result = _Result(grouped_out, slab, group_axis=3)
        sums = result.runs.zero_()
        sums, weights = sums.unbind(1), weights[:, :, None].unbind(1)
        for column, offset in slab.columns():
            shifted = _shift(values, offset, slab.width)
            for tap, here, there, length in slab.taps_of(column):
                seen = shifted.narrow(-1, there, length)
                for head in range(heads):
                    sums[head].narrow(-1, here, length).addcmul_(
                        weights[head].select(3, tap).narrow(-1, here, length), seen)
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
    grouped_grad_x = grad_x.unflatten(1, (-1, groups))
    unfinished = None
    for slab in _slabs(x, kernel_size, dilation):
        values, weights, upstream = (_load(x, slab.surroundings), _load(weight, slab),
                                     _load(grad, slab, group_axis=3))
        to_values = _zeros_and_carried_rows(values, unfinished, slab)
        result = _Result(grad_weight, slab)
        to_weights = result.runs.zero_() if slab.has_taps_outside() else result.runs
        upstream, weights = upstream.unbind(1), weights[:, :, None].unbind(1)
        to_weights = to_weights.unbind(1)
        products = torch.empty(upstream[0].shape, dtype=values.dtype, device=x.device)
        for column, offset in slab.columns():
            shifted = _shift(values, offset, slab.width)
            to_shifted = torch.zeros_like(to_values) if offset else to_values
            for tap, here, there, length in slab.taps_of(column):
                seen, to_seen = (t.narrow(-1, there, length) for t in (shifted, to_shifted))
                product = products.narrow(-1, 0, length)
                for head in range(heads):
                    above = upstream[head].narrow(-1, here, length)
                    to_seen.addcmul_(weights[head].select(3, tap).narrow(-1, here, length), above)
                    torch.mul(above, seen, out=product)
                    torch.sum(product, 1,
                              out=to_weights[head].select(2, tap).narrow(-1, here, length))
            _add_shifted_back(to_values, to_shifted, offset, slab.width)
        result.store()
        unfinished = _store_finished_rows(grouped_grad_x, to_values, slab)
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
        """How far a window reaches beyond its centre."""
        return self.dilation * (self.kernel_size // 2)

    @property
    def surroundings(self) -> '_Slab':
        """The rows that the windows reach."""
        return self._replace(top=max(self.top - self.padding, 0),
                             bottom=min(self.bottom + self.padding, self.height))

    def has_taps_outside(self) -> bool:
        """Whether some tap of some row or column lies outside the map for a whole row or column.

        Tells whether :meth:`columns` and :meth:`taps_of` together leave out anything.
        """
        return (self.top < self.padding or self.bottom + self.padding > self.height
                or self.padding >= self.width)

    def columns(self) -> Iterator[tuple[int, int]]:
        """(number, offset) of the columns of the window that can lie within the map."""
        for column in range(self.kernel_size):
            offset = self.dilation * column - self.padding
            if abs(offset) < self.width:
                yield column, offset

    def taps_of(self, column: int) -> Iterator[tuple[int, int, int, int]]:
        """(tap, first position, where that looks in the surroundings, number) inside the map."""
        above = self.surroundings.top
        for row in range(self.kernel_size):
            offset = self.dilation * row - self.padding
            top, bottom = max(self.top, -offset), min(self.bottom, self.height - offset)
            if top < bottom:
                yield (row * self.kernel_size + column, (top - self.top) * self.width,
                       (top + offset - above) * self.width, (bottom - top) * self.width)


def _slabs(x: Tensor, kernel_size: int, dilation: int) -> Iterator[_Slab]:
    """Cut maps, x (B, S, G, H, W), into slabs; the rows of an image follow from top to bottom."""
    batch, sharing, groups, height, width = x.shape
    elements = SLAB_ELEMENTS.get(x.device.type, SLAB_ELEMENTS_ELSEWHERE)
    # Memory is best read in long runs: all channels of a position in channels_last, else all
    # positions of a channel.
    together = groups if is_channels_last(x) else 1
    rows = min(height, max(1, elements // (sharing * together * width)))
    rows = -(-height // -(-height // rows))  # slabs of nearly equal size
    if rows == height:
        together = min(groups, max(together, elements // (sharing * height * width)))
    images = 1
    if rows == height and together == groups:
        images = max(1, elements // (sharing * groups * height * width))
    for image in range(0, batch, images):
        for group in range(0, groups, together):
            for top in range(0, height, rows):
                yield _Slab(slice(image, min(image + images, batch)),
                            slice(group, min(group + together, groups)), top,
                            min(top + rows, height), height, width, kernel_size, dilation)


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


def _fit_for_sums(runs: Tensor) -> bool:
    """Whether runs are stored end to end, in a type to sum up in."""
    return runs.stride(-1) == 1 and runs.dtype == _sum_type(runs)


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


class _Result:
    """Runs (b, ..., L) of a slab to compute; a part of the result itself where possible."""

    def __init__(self, maps: Tensor, slab: _Slab, group_axis: int = 2):
        self._target = _runs_of(maps, slab, group_axis)
        self.runs = self._target
        if not _fit_for_sums(self._target):
            self.runs = torch.empty(self._target.shape, dtype=_sum_type(maps), device=maps.device)

    def store(self) -> None:
        if self.runs is not self._target:
            _store(self._target, self.runs)


def _store(target: Tensor, runs: Tensor) -> None:
    """Copy runs (b, ..., L) into the maps ``target`` is a view of."""
    if target.stride(-1) != 1:
        batch, *channels, length = runs.shape
        runs = runs.reshape(batch, -1, length)
        target, runs = target.movedim(-1, 1), _transpose(runs).view(batch, length, *channels)
    target.copy_(runs)


def _shift(runs: Tensor, offset: int, width: int) -> Tensor:
    """Runs whose every position holds what the given ones have ``offset`` columns to its right."""
    if offset == 0:
        return runs
    shifted = torch.empty(runs.shape, dtype=runs.dtype, device=runs.device)
    read, written = _moved(runs.shape[-1], offset)
    shifted[..., written] = runs[..., read]
    _columns_without_source(shifted, offset, width).zero_()
    return shifted


def _add_shifted_back(total: Tensor, shifted: Tensor, offset: int, width: int) -> None:
    """Transpose of :func:`_shift`, for gradients: bring them back to where the values came from."""
    if offset == 0:
        return
    read, written = _moved(total.shape[-1], offset)
    _columns_without_source(shifted, offset, width).zero_()
    total[..., read] += shifted[..., written]


def _moved(length: int, offset: int) -> tuple[slice, slice]:
    """What is read of a run, and what is written, when it is moved ``offset`` places to the left.

    Moving the whole run instead of row by row is fast; it takes a few values into the next row,
    those of :func:`_columns_without_source`.
    """
    return (slice(max(offset, 0), length + min(offset, 0)),
            slice(max(-offset, 0), length + min(-offset, 0)))


def _columns_without_source(shifted: Tensor, offset: int, width: int) -> Tensor:
    rows = shifted.unflatten(-1, (-1, width))
    return rows[..., -offset:] if offset > 0 else rows[..., :-offset]


def _zeros_and_carried_rows(values: Tensor, unfinished: Optional[Tensor], slab: _Slab) -> Tensor:
    """Gradient of a slab's surroundings to start with: what the slabs above added to its rows."""
    start = torch.zeros(values.shape, dtype=values.dtype, device=values.device)
    if slab.top:
        start[..., :unfinished.shape[-1]] = unfinished
    return start


def _store_finished_rows(grad_x: Tensor, to_values: Tensor, slab: _Slab) -> Tensor:
    """Store the rows that no further slab adds to; the others are returned, for the next slab."""
    above = slab.surroundings.top
    bottom = slab.bottom if slab.bottom == slab.height else slab.bottom - slab.padding
    finished = slab._replace(top=above, bottom=max(above, bottom))
    if finished.length:
        _store(_runs_of(grad_x, finished, 2), to_values[..., :finished.length])
    return to_values[..., finished.length:]
