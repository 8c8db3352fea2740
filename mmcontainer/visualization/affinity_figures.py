"""Figures of affinities: rows of the matrices over the image, and how every block mixes them."""
from collections.abc import Sequence
from itertools import groupby
from typing import Optional

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from .affinity import AffinityRows, Mixture
from .figures import draw_cells, draw_picture, new_grid
from .network_input import NetworkInput

_TITLE_INCHES = 3.3  # what the longest line above a panel needs
_SEQUENTIAL, _DIVERGING = 'viridis', 'coolwarm'
_DYNAMIC_COLOUR, _STATIC_COLOUR = '#3b6fb6', '#d98032'


def draw_rows(rows: AffinityRows, image: NetworkInput, title: str = '') -> Figure:
    """Draw one line of panels per position: the image, then each affinity over it.

    A panel shows a row of a matrix: the weights with which the marked position collects from every
    cell of the grid, each cell as it is (no interpolation) over the image in grey. Weights of
    exactly 0 are transparent; where the others are few (a kernel), they are enlarged in a corner.
    Where weights are negative, colours are centred at 0. In a mixture they end at the largest
    weight outside of the kernel, and the colour bar has an arrow. Padding is hatched.

    Args:
        rows (AffinityRows): What to draw.
        image (NetworkInput): The image that they belong to.
        title (str): Text above the figure.
    """
    figure, grid = new_grid(len(rows.positions), 1 + len(rows.maps), image.inputs.shape[-2:],
                            title, _TITLE_INCHES)
    grey = image.picture.mean(axis=2)
    for line, position in enumerate(rows.positions):
        axes = grid[line, 0]
        draw_picture(axes, image.picture)
        _mark(axes, image, rows, line)
        axes.set_title(f'position {position.label}' if position.place else position.label,
                       fontsize=9)
        axes.set_ylabel('y in the input (pixels)', fontsize=9)
        for column, name in enumerate(rows.maps, 1):
            axes = grid[line, column]
            draw_picture(axes, grey)
            _draw_map(axes, rows, name, line)
            _mark(axes, image, rows, line)
            above = f'{heading(rows, name)}\n' if line == 0 else ''
            axes.set_title(above + summary(rows, name, line, image), fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel('x in the input (pixels)', fontsize=9)
    return figure


def _draw_map(axes, rows: AffinityRows, name: str, line: int) -> None:
    values = np.ma.masked_equal(rows.maps[name][line], 0)
    # One kind of colours per column, so that its panels can be compared.
    limit = colour_limit(rows.maps[name][line],
                         rows.maps['static'][line] if name == 'mixed' else None)
    signed = (rows.maps[name] < 0).any()
    style = dict(cmap=_DIVERGING if signed else _SEQUENTIAL,
                 norm=Normalize(-limit if signed else 0, limit))
    above, below = values.max() > limit, values.min() < -limit
    extend = {(True, True): 'both', (True, False): 'max', (False, True): 'min'}.get(
        (above, below), 'neither')
    draw_cells(axes, values, (rows.stride, rows.stride), extend, **style)
    if values.mask.any():
        _magnify(axes, values, rows.stride, style)


def colour_limit(weights: np.ndarray, static: Optional[np.ndarray] = None) -> float:
    """Largest absolute weight; of a mixture, outside of the kernel of a convolution.

    A kernel has a few weights, attention thousands that sum to one: on the kernel's scale they
    would all look like 0.

    Args:
        weights (np.ndarray): A map (h, w).
        static (np.ndarray, optional): Of a mixture: the map of its static affinity.
    """
    weights = np.abs(weights)
    outside = np.zeros(weights.shape, bool) if static is None else static == 0
    return float(weights[outside].max() if outside.any() else weights.max()) or 1.


def few_cells(present: np.ndarray) -> Optional[tuple[slice, slice]]:
    """Rows and columns of the cells (h, w) that are True, if they fill a small part of the map."""
    if not present.any():
        return None
    rows, columns = (slice(*(np.flatnonzero(present.any(axis=axis))[[0, -1]] + (0, 1)).tolist())
                     for axis in (1, 0))
    longest = max(rows.stop - rows.start, columns.stop - columns.start)
    return (rows, columns) if longest <= 0.15 * max(present.shape) else None


def _magnify(axes, values: np.ma.MaskedArray, stride: int, style: dict) -> None:
    """Enlarge the weights that are not 0 in the corner opposite to them, if they are few."""
    few = few_cells(~np.ma.getmaskarray(values))
    if few is None:
        return
    (top, bottom), (left, right) = ((part.start, part.stop) for part in few)
    height, width = values.shape
    share = 0.4 * min(height, width)  # of the panel, in cells
    corner = (0.02 if left + right > width else 0.98 - share / width,
              0.02 if top + bottom < height else 0.98 - share / height)
    inset = axes.inset_axes((*corner, share / width, share / height))
    inset.imshow(values, interpolation='nearest', **style,
                 extent=(0, width * stride, height * stride, 0))
    inset.set(xlim=(left * stride, right * stride), ylim=(bottom * stride, top * stride),
              xticks=[], yticks=[])
    axes.indicate_inset_zoom(inset, edgecolor='white', alpha=1)
    inset.spines[:].set_edgecolor('white')


def _mark(axes, image: NetworkInput, rows: AffinityRows, line: int) -> None:
    """Hatch the padding, and mark the position and its cell."""
    height, width = image.inputs.shape[-2:]
    # imshow has fitted the axes to the picture or map, which may be smaller than the input.
    axes.set(xlim=(0, width), ylim=(height, 0))
    x1, y1, x2, y2 = image.content
    for x, y, w, h in ((0, 0, x1, height), (x2, 0, width - x2, height), (x1, 0, x2 - x1, y1),
                       (x1, y2, x2 - x1, height - y2)):
        if w > 0 and h > 0:
            axes.add_patch(Rectangle((x, y), w, h, fill=False, hatch='////', linewidth=0,
                                     edgecolor='0.45'))
    place = rows.positions[line].place
    if place is None:
        return
    row, column = rows.cells[line] * rows.stride
    for colour, linewidth in (('black', 2.5), ('white', 1.2)):
        axes.add_patch(Rectangle((column, row), rows.stride, rows.stride, fill=False,
                                 edgecolor=colour, linewidth=linewidth))
    axes.plot(*image.geometry.to_input(place), marker='o', markersize=5, markerfacecolor='white',
              markeredgecolor='black')


def heading(rows: AffinityRows, name: str) -> str:
    """Say in two lines what a map of a block is: 'dynamic', 'static' or 'mixed'."""
    mixture = rows.mixture
    if name == 'mixed':
        return 'mixed\n' + ('one softmax of both' if mixture.alpha is None else
                            f'{mixture.alpha:.3g} dynamic + {mixture.beta:.3g} static')
    what = mixture.dynamic if name == 'dynamic' else mixture.static
    heads = rows.heads[name]
    return f'{name}: {what}\n' + ('1 head' if heads == 1 else f'mean of {heads} heads')


def summary(rows: AffinityRows, name: str, line: int, image: NetworkInput) -> str:
    """Say in two lines what the weights of a map sum to, and their range."""
    values = rows.maps[name][line]
    parts = []
    if name in rows.class_token:
        parts.append(f'class token {rows.class_token[name][line]:.2g}')
    padding = _padding_share(values, rows.stride, image)
    if padding is not None:
        parts.append(f'padding {padding:.2g}')
    of_it = f' (of it {", ".join(parts)})' if parts else ''
    return f'sum {rows.sums(name)[line]:.3f}{of_it}\nfrom {values.min():.2g} to {values.max():.2g}'


def _padding_share(values: np.ndarray, stride: int, image: NetworkInput) -> Optional[float]:
    """Sum of the weights of the cells that lie in the padding with their centre."""
    x1, y1, x2, y2 = image.content
    y, x = ((np.arange(size) + 0.5) * stride for size in values.shape)
    outside = ~(((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2))[None])
    return float(values[outside].sum()) if outside.any() else None


def draw_mixtures(mixtures: Sequence[Mixture], title: str = '') -> Figure:
    """Draw alpha and beta of every block as bars, grouped by stage.

    Learned values are solid; those that follow from the architecture (1 for an affinity that acts
    alone, 0 for one that is missing) pale and hatched.

    Args:
        mixtures (Sequence[Mixture]): The blocks.
        title (str): Text above the figure.
    """
    figure = Figure(figsize=(max(7.5, 0.62 * len(mixtures) + 2), 4.4), dpi=110,
                    layout='constrained')
    axes = figure.subplots()
    top = max(1., *(value for mixture in mixtures for value in (mixture.alpha, mixture.beta)))
    ticks, x = [], 0.
    for stage, blocks in groupby(mixtures, key=lambda mixture: mixture.stage):
        if ticks:
            axes.axvline(x - 0.8, color='0.8', linewidth=0.8)
        start = x
        for mixture in blocks:
            _draw_bars(axes, x, mixture, top)
            ticks.append((x, mixture.short_name))
            x += 1
        axes.text((start + x - 1) / 2, 1.19 * top, f'stage {stage}', ha='center', fontsize=10)
        x += 0.6
    axes.set_xticks([tick for tick, _ in ticks], [name for _, name in ticks], fontsize=8)
    axes.set(xlabel='block (stage.number)', ylabel='weight in the mixture', xlim=(-0.8, x - 0.8),
             ylim=(0, 1.28 * top), yticks=np.linspace(0, top, 5))
    axes.grid(axis='y', alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    handles = [Patch(color=_DYNAMIC_COLOUR, label='alpha: dynamic affinity'),
               Patch(color=_STATIC_COLOUR, label='beta: static affinity')]
    if not all(mixture.learned for mixture in mixtures):
        handles.append(Patch(label='given by the architecture, not learned',
                             **_not_learned('0.4')))
    figure.legend(handles=handles, loc='outside lower center', ncols=3, frameon=False, fontsize=9)
    axes.set_title(title, fontsize=11)
    return figure


def _not_learned(colour: str) -> dict:
    return dict(facecolor='white', edgecolor=colour, hatch='////', alpha=0.55, linewidth=0.8)


def _draw_bars(axes, x: float, mixture: Mixture, top: float) -> None:
    """Alpha and beta of one block, with their values above."""
    for shift, value, colour in ((-0.21, mixture.alpha, _DYNAMIC_COLOUR),
                                 (0.21, mixture.beta, _STATIC_COLOUR)):
        style = dict(color=colour) if mixture.learned else _not_learned(colour)
        axes.bar(x + shift, value, width=0.4, **style)
        axes.text(x + shift, value + 0.015 * top,
                  f'{value:.2f}' if mixture.learned else f'{value:g}', ha='center', va='bottom',
                  fontsize=8, rotation=90 if mixture.learned else 0,
                  color='black' if mixture.learned else '0.45')
