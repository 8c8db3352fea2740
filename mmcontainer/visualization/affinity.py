"""Compute the numbers of the affinity figures: rows of a backbone's explicit affinity matrices.

The figures are drawn in :mod:`mmcontainer.visualization.affinity_figures`.
"""
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from ..layers import AffinityMatrices
from .network_input import NetworkInput


class Mixture(NamedTuple):
    """The mixture of affinities in a block: ``alpha * dynamic + beta * static``.

    Attributes:
        layer (str): Name of the block in its backbone, 'stages.3.blocks.0'.
        stage (int): Stage it belongs to.
        alpha, beta (float, optional): Shares of the dynamic and of the static affinity; None where
            they are added inside of the softmax (CoAtNet).
        learned (bool): False where they follow from the architecture: an affinity that acts alone
            has 1 and the missing one 0, and Container-PAM adds both as they are.
        dynamic (str, optional): What the dynamic affinity is; None if there is none.
        static (str, optional): The same for the static one.
        has_matrix (bool): False for convolutions that mix channels, which are no affinity.
    """
    layer: str
    stage: int
    alpha: Optional[float]
    beta: Optional[float]
    learned: bool
    dynamic: Optional[str]
    static: Optional[str]
    has_matrix: bool

    @property
    def short_name(self) -> str:
        """'3.0' for 'stages.3.blocks.0'."""
        return '.'.join(part for part in self.layer.split('.') if part.isdigit())


class Position(NamedTuple):
    """A place in the image whose row of the matrix is wanted.

    Attributes:
        label (str): As the user named it.
        place (tuple[float, float], optional): (x, y) in continuous pixels of the image file; None
            for the class token.
    """
    label: str
    place: Optional[tuple[float, float]]


class AffinityRows(NamedTuple):
    """Rows of the affinity matrices of one block for P positions, as maps over its h x w grid.

    Attributes:
        mixture (Mixture): The block.
        selection (str): What they are averaged over: 'mean' of all heads, those that act on the
            channels of one head ('head 3'), or on one channel ('channel 5').
        positions (tuple[Position]): The P positions.
        cells (np.ndarray): (P, 2), (row, column) in the grid; -1 for the class token.
        stride (int): Pixels of the network's input along the side of a cell.
        maps (dict[str, np.ndarray]): 'dynamic', 'static' and 'mixed', as far as the block has them,
            (P, h, w).
        class_token (dict[str, np.ndarray]): Under the same names the weights (P, ) of the class
            token; empty if there is none.
        heads (dict[str, int]): Under the same names the number of heads averaged over.
    """
    mixture: Mixture
    selection: str
    positions: tuple[Position, ...]
    cells: np.ndarray
    stride: int
    maps: dict[str, np.ndarray]
    class_token: dict[str, np.ndarray]
    heads: dict[str, int]

    @property
    def grid_size(self) -> tuple[int, int]:
        """(h, w)."""
        return next(iter(self.maps.values())).shape[1:]

    def sums(self, name: str) -> np.ndarray:
        """Sums (P, ) of whole rows, class token included."""
        return self.maps[name].sum(axis=(1, 2)) + self.class_token.get(name, 0)


def affinity_modules(backbone: nn.Module) -> dict[str, nn.Module]:
    """Modules of a backbone that can build their affinity matrices, by the name of their block."""
    return {name.rpartition('.')[0]: module for name, module in backbone.named_modules()
            if callable(getattr(module, 'affinities', None))}


def list_mixtures(backbone: nn.Module) -> list[Mixture]:
    """Describe how every block of a backbone mixes its affinities, in order.

    Raises:
        UserError: If the backbone has no such blocks.
    """
    modules = affinity_modules(backbone)
    if not modules:
        raise UserError(f'{type(backbone).__name__} has no blocks with an affinity; expected a '
                        'backbone of the Container family.')
    return [_describe(layer, module) for layer, module in modules.items()]


def _describe(layer: str, module: nn.Module) -> Mixture:
    has_dynamic, static = bool(module.num_heads), module.static
    if hasattr(module, 'alpha'):
        alpha = float(module.alpha.detach())
        beta = 1 - alpha
    else:  # Container-PAM's sum
        alpha, beta = 1., float(static is not None)
    stage = next(int(part) for part in layer.split('.') if part.isdigit())
    return Mixture(
        layer, stage, alpha, beta,
        learned=hasattr(module, 'mix_logit'),
        dynamic='self-attention' if has_dynamic else None,
        static=None if static is None else _describe_static(static),
        has_matrix=static is None or hasattr(static, 'affinity'))


def _describe_static(static: nn.Module) -> str:
    kernel = getattr(static, 'weight', None)
    if kernel is not None and kernel.dim() == 4:
        kind = 'depth-wise' if hasattr(static, 'affinity') else 'channel-mixing'
        return f'{kind} {kernel.shape[2]} x {kernel.shape[3]} convolution'
    return 'learned matrix' if kernel is not None else 'learned low-rank matrix'


def find_layers(mixtures: Sequence[Mixture], names: Optional[Sequence[str]]) -> list[Mixture]:
    """Find blocks by name.

    Args:
        mixtures (Sequence[Mixture]): Of all blocks.
        names (Sequence[str], optional): Like 'stages.3.blocks.0' or '3.0'. Without it the last
            block with both affinities, else the last one with any.

    Raises:
        UserError: Unknown name, or a block without affinity matrix; lists the blocks there are.
    """
    def listing() -> str:
        lines = []
        for mixture in mixtures:
            parts = [part for part in (mixture.dynamic, mixture.static) if part is not None]
            note = '' if mixture.has_matrix else ' (no affinity matrix)'
            lines.append(f'  {mixture.short_name:<6} {mixture.layer}: {" and ".join(parts)}{note}')
        return '\n'.join(lines)

    if not names:
        drawable = [mixture for mixture in mixtures if mixture.has_matrix]
        if not drawable:
            raise UserError('No block of this backbone has an affinity matrix to draw: '
                            'convolutions that mix channels are not of the form A V.\n'
                            f'{listing()}')
        both = [mixture for mixture in drawable if mixture.dynamic and mixture.static]
        return [(both or drawable)[-1]]
    found = []
    for name in dict.fromkeys(names):
        match = [mixture for mixture in mixtures if name in (mixture.layer, mixture.short_name)]
        if not match:
            raise UserError(f'--layer {name}: there is no such block; there are:\n{listing()}')
        if not match[0].has_matrix:
            raise UserError(f'--layer {name}: the {match[0].static} of {match[0].layer} mixes '
                            'channels, so there is no affinity matrix that it applies to every '
                            f'channel. The blocks are:\n{listing()}')
        found.append(match[0])
    return list(dict.fromkeys(found))


def parse_position(text: str, image: NetworkInput, has_class_token: bool) -> Position:
    """Read a position from the command line.

    Args:
        text (str): 'x,y' in pixels of the image file, 'x%,y%' of its width and height, or 'cls' for
            the class token. A whole number means the centre of that pixel.
        image (NetworkInput): The image.
        has_class_token (bool): Whether the backbone has one.

    Raises:
        UserError: If it is none of these.
    """
    if text == 'cls':
        if not has_class_token:
            raise UserError('--position cls: this backbone has no class token.')
        return Position('class token', None)

    def to_pixels(part: str, size: int) -> float:
        if part.strip().endswith('%'):
            return float(part.strip()[:-1]) / 100 * size
        return np.floor(float(part)) + 0.5

    try:
        x, y = text.split(',')
        height, width = image.file_size
        return Position(text, (to_pixels(x, width), to_pixels(y, height)))
    except ValueError:
        raise UserError(f"--position {text}: expected x,y in pixels of the image (as '120,80'), or "
                        "in per cent of its width and height (as '25%,50%').") from None


def default_positions(image: NetworkInput) -> list[Position]:
    """The centre of what the network sees of an image, and two places on its diagonal."""
    x1, y1, x2, y2 = image.content
    positions = []
    for part in (0.5, 0.25, 0.75):
        place = image.geometry.to_file((x1 + part * (x2 - x1), y1 + part * (y2 - y1)))
        positions.append(Position(f'{place[0]:.0f},{place[1]:.0f}', tuple(place.tolist())))
    return positions


def find_cells(positions: Sequence[Position], image: NetworkInput, stride: int,
               grid_size: Sequence[int]) -> np.ndarray:
    """Cells (P, 2), (row, column), of a grid in which positions lie; -1 for the class token.

    Raises:
        UserError: For a position that the network does not see: outside of the image, cropped by
            the pipeline, or in the strip at the right or lower edge that fills no whole patch.
    """
    height, width = image.file_size
    grid_end = image.geometry.to_file((grid_size[1] * stride, grid_size[0] * stride))
    first = np.maximum(0, np.round(image.geometry.to_file((0, 0))))
    last = np.minimum((width, height), np.round(grid_end))
    cells = np.full((len(positions), 2), -1)
    for cell, position in zip(cells, positions):
        if position.place is None:
            continue
        if not ((first <= position.place) & (position.place < last)).all():
            raise UserError(
                f'--position {position.label}: outside of what the network sees of the image '
                f'({width} x {height} pixels) in cells of {stride} x {stride}: x from '
                f'{first[0]:.0f} to {last[0] - 1:.0f}, y from {first[1]:.0f} to {last[1] - 1:.0f}.')
        x, y = image.geometry.to_input(position.place)
        cell[:] = np.minimum((int(y // stride), int(x // stride)), np.array(grid_size) - 1)
    return cells


def _channel_range(selection: str, channels: int, heads: int) -> tuple[int, int]:
    """The channels [first, last) meant by a selection."""
    if selection == 'mean':
        return 0, channels
    kind, index = selection.split()
    count = heads if kind == 'head' else channels
    if not 0 <= int(index) < count:
        raise UserError(
            f'--{kind} {index}: this block has {count} {kind}s, 0 to {count - 1}.')
    width = channels // count
    return int(index) * width, (int(index) + 1) * width


def _average(rows: Tensor, channels: int, first: int, last: int) -> tuple[Tensor, int]:
    """Mean of rows (K, P, N) over the heads that act on the channels [first, last), and how many.

    Head k of K acts on the channels k * C / K ... (k + 1) * C / K - 1.
    """
    heads = len(rows)
    chosen = rows[first * heads // channels:-(-last * heads // channels)]
    return chosen.mean(dim=0), len(chosen)


def record_inputs(backbone: nn.Module, image: NetworkInput,
                  layers: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Run a backbone once, and keep what the aggregations of some blocks are given.

    Args:
        backbone (nn.Module): In evaluation mode, on the device of the image.
        image (NetworkInput): The image.
        layers (Iterable[str]): Names of blocks.

    Returns:
        dict[str, tuple]: Positional arguments of their modules, for :func:`build_rows`.
    """
    modules, found = affinity_modules(backbone), {}
    handles = [modules[layer].register_forward_pre_hook(
        lambda module, args, layer=layer: found.update({layer: args})) for layer in layers]
    try:
        with torch.no_grad():
            backbone(image.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def grid_of(args: tuple[Any, ...]) -> tuple[int, int]:
    """Size (h, w) of the grid of an aggregation with these arguments."""
    # Token blocks are told the size of their grid, the others see it in the map.
    return tuple(args[1]) if len(args) > 1 else tuple(args[0].shape[-2:])


@torch.no_grad()
def build_rows(module: nn.Module, args: tuple[Any, ...], mixture: Mixture, stride: int,
               positions: Sequence[Position], cells: np.ndarray,
               selections: Sequence[str]) -> list[AffinityRows]:
    """Build rows of the explicit matrices of one block; no other row is computed.

    Args:
        module (nn.Module): The block's aggregation, see :func:`affinity_modules`.
        args (tuple): What it is given, see :func:`record_inputs`.
        mixture (Mixture): The block.
        stride (int): Pixels of the network's input along the side of a cell.
        positions (Sequence[Position]): The rows.
        cells (np.ndarray): (P, 2), their cells, see :func:`find_cells`.
        selections (Sequence[str]): See :func:`collect_rows`.
    """
    grid_size = grid_of(args)
    indices = cells[:, 0] * grid_size[1] + cells[:, 1]
    if len(args) > 1:  # index 0 is the class token
        indices = np.where(cells[:, 0] < 0, 0, 1 + indices)
    rows = module.affinities(*args, positions=torch.from_numpy(indices).to(args[0].device))
    return [_select(rows, module, mixture, selection, positions, cells, stride, grid_size)
            for selection in selections]


def collect_rows(backbone: nn.Module, image: NetworkInput, mixtures: Sequence[Mixture],
                 positions: Sequence[Position],
                 selections: Sequence[str]) -> list[AffinityRows]:
    """Run a backbone once and build the wanted rows of the explicit matrices of some blocks.

    Args:
        backbone (nn.Module): In evaluation mode, on the device of the image.
        image (NetworkInput): The image.
        mixtures (Sequence[Mixture]): The blocks.
        positions (Sequence[Position]): The rows.
        selections (Sequence[str]): Heads or channels to average over, see :class:`AffinityRows`;
            each gives one result.

    Returns:
        list[AffinityRows]: For every block, in the order of ``mixtures``, every selection.

    Raises:
        UserError: If a position or a head is out of range.
    """
    modules, results = affinity_modules(backbone), []
    inputs = record_inputs(backbone, image, [mixture.layer for mixture in mixtures])
    for mixture in mixtures:
        args, stride = inputs[mixture.layer], backbone.strides[mixture.stage]
        cells = find_cells(positions, image, stride, grid_of(args))
        results += build_rows(modules[mixture.layer], args, mixture, stride, positions, cells,
                              selections)
    return results


def _select(rows: AffinityMatrices, module: nn.Module, mixture: Mixture, selection: str,
            positions: Sequence[Position], cells: np.ndarray, stride: int,
            grid_size: Sequence[int]) -> AffinityRows:
    """Average rows over heads and lay them out as maps."""
    channels = module.out_proj.weight.shape[0]
    by_name = {name: value[0] if value.dim() == 4 else value
               for name, value in rows._asdict().items() if value is not None}
    main = by_name['dynamic' if rows.dynamic is not None else 'static']
    first, last = _channel_range(selection, channels, len(main))
    if rows.dynamic is None or rows.static is None:
        del by_name['mixed']  # the one affinity that acts alone
    maps, class_token, heads = {}, {}, {}
    for name, value in by_name.items():
        mean, heads[name] = _average(value.float(), channels, first, last)
        mean = mean.cpu().numpy()
        if mean.shape[1] == np.prod(grid_size) + 1:
            class_token[name], mean = mean[:, 0], mean[:, 1:]
        maps[name] = mean.reshape(len(positions), *grid_size)
    return AffinityRows(mixture, selection, tuple(positions), cells, stride, maps, class_token,
                        heads)
