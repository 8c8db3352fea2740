"""What the page shows of a photograph: its picture, and the maps of blocks and queries."""
from html import escape
from itertools import groupby
from typing import Optional

import cv2
import numpy as np

from ..visualization.affinity import AffinityRows
from ..visualization.affinity_figures import colour_limit, heading, summary
from .explorer import Photograph
from .maps import Canvas, Map, box_mark, card, page_of_maps, point_mark, share_bar


def draw_photograph(photograph: Photograph, score_thr: float,
                    place: Optional[tuple[float, float]] = None) -> np.ndarray:
    """Draw the objects, and a mark at the place that was clicked.

    Args:
        photograph (Photograph): What to draw.
        score_thr (float): Objects with a lower score are left out.
        place (tuple[float, float], optional): (x, y) in pixels of the upright image.

    Returns:
        np.ndarray: (h, w, 3) in RGB, uint8.
    """
    picture = photograph.draw(score_thr).copy()
    if place is not None:
        centre = tuple(round(value * size / whole) for value, size, whole in zip(
            place, picture.shape[1::-1], (photograph.found.width, photograph.found.height)))
        unit = max(picture.shape[:2]) / 960
        for colour, width in (((0, 0, 0), 7), ((255, 255, 255), 3)):
            cv2.drawMarker(picture, centre, colour, cv2.MARKER_CROSS, round(34 * unit),
                           max(1, round(width * unit)), cv2.LINE_AA)
            cv2.circle(picture, centre, round(11 * unit), colour, max(1, round(width * unit)),
                       cv2.LINE_AA)
    return picture


def canvas_of(photograph: Photograph) -> Canvas:
    """The canvas of all maps of a photograph."""
    height, width = photograph.image.inputs.shape[-2:]
    return Canvas(width, height, photograph.image.picture)


def draw_blocks(photograph: Photograph, place: tuple[float, float]) -> str:
    """Draw what a place collects in every block of the backbone, the last stage first.

    Args:
        photograph (Photograph): What to draw.
        place (tuple[float, float]): (x, y) in pixels of the upright image.

    Returns:
        str: HTML.
    """
    if not photograph.blocks:
        return _note('No block of this backbone has an affinity that could be drawn; those of '
                     'Container, CoTNet and CoAtNet have.')
    canvas = canvas_of(photograph)
    x, y = photograph.image.geometry.to_input(place)
    point = point_mark(canvas, x, y)
    parts = []
    stages = [(stage, list(rows)) for stage, rows in groupby(
        photograph.rows_at(place), key=lambda rows: rows.mixture.stage)]
    for stage, blocks in reversed(stages):
        parts.append(f'<h3>Stage {stage + 1}</h3><div class="mc-cards">')
        parts += [_draw_block(photograph, canvas, rows, point) for rows in blocks]
        parts.append('</div>')
    return page_of_maps(canvas, ''.join(parts))


def _draw_block(photograph: Photograph, canvas: Canvas, rows: AffinityRows, point: str) -> str:
    mixture = rows.mixture
    row, column = rows.cells[0] * rows.stride
    marks = box_mark(canvas, (column, row, column + rows.stride, row + rows.stride), 'cell') + point
    maps = []
    for name, values in rows.maps.items():
        title, more = heading(rows, name).split('\n')
        static = rows.maps['static'][0] if name == 'mixed' else None
        numbers = summary(rows, name, 0, photograph.image).replace('\n', ', ')
        maps.append(Map(values[0], (rows.stride, rows.stride), colour_limit(values[0], static),
                        title, f'{more}; {numbers}', marks))
    extra = '' if mixture.alpha is None else share_bar(mixture.alpha, mixture.beta,
                                                       mixture.learned)
    # Not every block of a stage has the same: some work before the stage's pooling.
    text = f'cells of {rows.stride} x {rows.stride} pixels'
    if mixture.static is not None and 'static' not in rows.maps:
        text += f'. The {mixture.static} is no affinity: there is no such map.'
    return card(mixture.layer, text, canvas, maps, extra)


def draw_query(photograph: Photograph, number: Optional[int]) -> str:
    """Draw where the query of an object looks, in every layer of the decoder, the last one first.

    Args:
        photograph (Photograph): Of an SMCA-DETR.
        number (int, optional): Of the object; None if none was chosen.

    Returns:
        str: HTML.
    """
    line = None if number is None else photograph.query_of(number)
    if line is None:
        return _note('Click into the box of an object, or choose one in the list.')
    canvas = canvas_of(photograph)
    last, one = photograph.queries[-1], photograph.found.detections[number]
    parts = [f'<h3>Query {last.queries[line]} <small>{escape(_name(number, one))}; a star marks '
             'its reference point, dots the centres of the Gaussians of its heads</small></h3>'
             '<div class="mc-cards">']
    for rows in reversed(photograph.queries):
        marks = box_mark(canvas, rows.boxes[line]) + ''.join(
            point_mark(canvas, *place, 'dot') for place in rows.points[line]) + point_mark(
            canvas, *rows.references[line], 'star')
        texts = dict(before='softmax without the Gaussian', gaussian='1 at the centre of a head',
                     after='softmax with the Gaussian')
        maps = [Map(values, rows.cell_size, float(values.max()) or 1., title,
                    f'{texts[name]}; from {values.min():.2g} to {values.max():.2g}', marks)
                for name, title in (('before', 'attention before'), ('gaussian', 'Gaussian'),
                                    ('after', 'attention after'))
                for values in [getattr(rows, name)[line]]]
        group = f'; {rows.group}, weight {rows.weights[line]:.2f}' if rows.group else ''
        parts.append(card(f'Layer {rows.layer + 1} of the decoder', rows.head + group, canvas,
                          maps))
    return page_of_maps(canvas, ''.join(parts) + '</div>')


def _name(number: int, one) -> str:
    return f'{number + 1}: {one.class_name} {one.score:.2f}'


def object_names(photograph: Photograph, score_thr: float) -> list[tuple[str, int]]:
    """Names and numbers of the shown objects, for a list to choose from."""
    return [(_name(number, one), number) for number, one in photograph.shown(score_thr)]


def _note(text: str) -> str:
    return f'<p class="mc-note">{text}</p>'
