"""Shared by the figures of affinities and of queries."""
from pathlib import Path
from typing import Any, Optional

import numpy as np
from matplotlib.figure import Figure

from ..fileio import write_atomically

_PANEL_INCHES = 3.4  # longer side of a picture


def new_grid(lines: int, columns: int, size: tuple[int, int], title: str,
             least_width: float) -> tuple[Figure, np.ndarray]:
    """A figure of panels that show pictures of one size, with room for colour bars and text.

    The figure is made directly, not by pyplot: no global state, no display needed.

    Args:
        lines, columns (int): Number of panels.
        size (tuple[int, int]): Height and width of a picture in pixels.
        title (str): Text above the figure.
        least_width (float): Inches that the longest line above a panel needs.
    """
    height, width = (_PANEL_INCHES * side / max(size) for side in size)
    figure = Figure(figsize=(columns * max(width + 0.9, least_width) + 0.3,
                             lines * (height + 0.75) + 1.2), dpi=110, layout='compressed')
    figure.suptitle(title, fontsize=11)
    return figure, figure.subplots(lines, columns, squeeze=False)


def draw_picture(axes, picture: np.ndarray) -> None:
    """Show a picture (h, w) or (h, w, 3) in coordinates of the network's input."""
    height, width = picture.shape[:2]
    axes.imshow(picture, extent=(0, width, height, 0), cmap='gray', vmin=0, vmax=255)
    axes.tick_params(labelsize=8)


def draw_cells(axes, values: np.ndarray, cell_size: tuple[float, float], extend: str = 'neither',
               **style) -> None:
    """Lay a map (h, w) over a picture, each cell as it is, with a colour bar as high as the panel.

    Args:
        axes (Axes): The panel.
        values (np.ndarray): The map.
        cell_size (tuple[float, float]): Width and height of a cell in pixels of the input.
        extend (str): Ends of the colour bar that get an arrow, as Matplotlib calls them.
        style: Arguments of ``imshow``.
    """
    rows, columns = values.shape
    drawn = axes.imshow(values, alpha=0.8, interpolation='nearest',
                        extent=(0, columns * cell_size[0], rows * cell_size[1], 0), **style)
    place = axes.inset_axes((1.03, 0, 0.045, 1))
    axes.figure.colorbar(drawn, cax=place, extend=extend).ax.tick_params(labelsize=8)


def save(figure: Figure, target: Path, numbers: Optional[dict[str, Any]] = None) -> None:
    """Write a figure without empty margins, and its numbers beside it as ``.npz``."""
    write_atomically(target, lambda file: figure.savefig(
        file, bbox_inches='tight', pad_inches=0.15))
    if numbers is not None:
        write_atomically(target.with_suffix('.npz'),
                         lambda file: np.savez_compressed(file, **numbers))
