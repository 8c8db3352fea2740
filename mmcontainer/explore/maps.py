"""Maps of weights over a photograph as HTML: cells as they are, a colour bar, and words.

Pictures are data URIs. A map is as small as its grid, and the browser enlarges it: dozens of them
take less than one drawn figure.
"""
import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import NamedTuple, Optional

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from ..visualization.affinity_figures import few_cells

_SEQUENTIAL, _DIVERGING = 'viridis', 'coolwarm'
_OPACITY, _ZOOMED = 0.8, 0.4
_GREY_SIDE = 640  # pixels of the grey photograph behind the maps


class Canvas(NamedTuple):
    """What all maps of a photograph are drawn on.

    Attributes:
        width, height (int): Size of the network's input in pixels.
        picture (np.ndarray): (h, w, 3), RGB, uint8: the part of it that shows the photograph.
    """
    width: int
    height: int
    picture: np.ndarray

    def percent(self, x: float, y: float) -> tuple[float, float]:
        """A place in the input, in per cent of its width and height."""
        return 100 * x / self.width, 100 * y / self.height


class Map(NamedTuple):
    """One map, and what is written to it.

    Attributes:
        values (np.ndarray): Weights (h, w); those of exactly 0 are transparent.
        cell_size (tuple[float, float]): Width and height of a cell in pixels of the input.
        limit (float): Where the colours end.
        title, text (str): What the map is, and more about it.
        marks (str): HTML over the map.
    """
    values: np.ndarray
    cell_size: tuple[float, float]
    limit: float
    title: str
    text: str
    marks: str = ''


def data_uri(pixels: np.ndarray, kind: str = 'png') -> str:
    """Pixels (h, w), (h, w, 3) or (h, w, 4), uint8, as the address of a picture."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return f'data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'


def page_of_maps(canvas: Canvas, content: str) -> str:
    """Wrap everything that is drawn on one canvas, whose grey photograph is sent only once."""
    grey = Image.fromarray(canvas.picture).convert('L')
    grey.thumbnail((_GREY_SIDE, _GREY_SIDE))
    width, height = canvas.percent(*canvas.picture.shape[1::-1])
    return (f'<div class="mc-maps" style="--photo: url({data_uri(np.asarray(grey), "jpeg")}); '
            f'--photo-size: {width:.3f}% {height:.3f}%; --aspect: {canvas.width} / '
            f'{canvas.height}">{content}</div>')


def card(title: str, text: str, canvas: Canvas, maps: Sequence[Map], extra: str = '') -> str:
    """A block or layer with its maps side by side."""
    return (f'<section class="mc-card" style="--columns: {max(1, len(maps))}"><h4>{escape(title)}'
            f'<small>{escape(text)}</small></h4>{extra}<div class="mc-row">'
            f'{"".join(_figure(canvas, one) for one in maps)}</div></section>')


def share_bar(alpha: float, beta: float, learned: bool) -> str:
    """Alpha and beta as the two parts of a bar; those that are not learned are 0 or 1."""
    texts = ((f'{alpha:.3f} dynamic', f'{beta:.3f} static') if learned else
             (f'{alpha:g}', f'{beta:g}'))
    return (f'<div class="mc-shares"><i style="width: {100 * alpha / (alpha + beta):.2f}%"></i>'
            f'<span>&alpha; = {texts[0]}</span><span>&beta; = {texts[1]}</span></div>')


def point_mark(canvas: Canvas, x: float, y: float, kind: str = 'point') -> str:
    """A mark at a place in pixels of the input: 'point', 'star' or 'dot'."""
    left, top = canvas.percent(x, y)
    return f'<i class="mc-mark mc-{kind}" style="left: {left:.3f}%; top: {top:.3f}%"></i>'


def box_mark(canvas: Canvas, box: Sequence[float], kind: str = 'box') -> str:
    """The outline of a box (x1, y1, x2, y2) in pixels of the input: 'box', or a 'cell'."""
    x1, y1, x2, y2 = box
    left, top = canvas.percent(x1, y1)
    width, height = canvas.percent(x2 - x1, y2 - y1)
    return (f'<i class="mc-{kind}" style="left: {left:.3f}%; top: {top:.3f}%; '
            f'width: {width:.3f}%; height: {height:.3f}%"></i>')


def _figure(canvas: Canvas, one: Map) -> str:
    signed = bool((one.values < 0).any())
    colours = colormaps[_DIVERGING if signed else _SEQUENTIAL]
    lowest = -one.limit if signed else 0.
    rgba = colours((one.values - lowest) / (one.limit - lowest), bytes=True)
    rgba[..., 3] = np.where(one.values == 0, 0, round(255 * _OPACITY))
    rows, columns = one.values.shape
    width, height = canvas.percent(columns * one.cell_size[0], rows * one.cell_size[1])
    alt = escape(f'{one.title}: {one.text}', quote=True)
    return (f'<figure><div class="mc-view"><img class="mc-cells" alt="{alt}" '
            f'src="{data_uri(rgba)}" style="width: {width:.3f}%; height: {height:.3f}%">'
            f'{one.marks}{_zoom(canvas, one.values, rgba)}</div>{_colour_bar(one, colours, signed)}'
            f'<figcaption><b>{escape(one.title)}</b><br>{escape(one.text)}</figcaption></figure>')


def _zoom(canvas: Canvas, values: np.ndarray, rgba: np.ndarray) -> str:
    """Enlarge the weights that are not 0 in the corner opposite to them, if they are few."""
    few: Optional[tuple[slice, slice]] = few_cells(values != 0)
    if few is None:
        return ''
    enlarged = rgba[few].copy()
    enlarged[..., 3] = 255
    rows, columns = few
    # The longer side takes this share of the shorter side of the map.
    side = _ZOOMED * min(canvas.width, canvas.height) / max(enlarged.shape)
    width, height = canvas.percent(side * enlarged.shape[1], side * enlarged.shape[0])
    corner = ('right' if columns.start + columns.stop < values.shape[1] else 'left',
              'bottom' if rows.start + rows.stop < values.shape[0] else 'top')
    return (f'<img class="mc-zoom" alt="the same weights, enlarged" src="{data_uri(enlarged)}" '
            f'style="{corner[0]}: 2%; {corner[1]}: 2%; width: {width:.3f}%; height: '
            f'{height:.3f}%">')


def _colour_bar(one: Map, colours, signed: bool) -> str:
    stops = ', '.join(to_hex(colours(part)) for part in np.linspace(0, 1, 9))
    # Of a mixture the few weights of a kernel lie beyond the end.
    beyond = '\u2265 ' if np.abs(one.values).max() > 1.0001 * one.limit else ''
    first = f'-{one.limit:.2g}' if signed else '0'
    return (f'<div class="mc-bar"><span>{first}</span><i style="background: linear-gradient('
            f'to right, {stops})"></i><span>{beyond}{one.limit:.2g}</span></div>')
