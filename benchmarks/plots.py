"""Pictures of the backbones' results."""
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from mmcontainer.fileio import write_atomically

from .store import code_of, find_row


def chosen(cases: Sequence[dict]) -> list[dict]:
    """One image in float32 without gradients, on the machine, and of the code, with most sizes."""
    groups: dict[tuple, list[dict]] = {}
    for case in cases:
        if (case['passes'], case['batch'], case['dtype']) == ('inference', 1, 'float32'):
            machine = case['machine']
            key = (machine['hardware'], machine['threads'], machine['allocator'], code_of(case))
            groups.setdefault(key, []).append(case)
    group = max(groups.values(), key=len, default=[])
    return sorted(group, key=lambda case: math.prod(case['size']))


def describe(case: dict) -> str:
    """The workload and machine of a whole picture, in words."""
    machine = case['machine']
    return (f'one image, float32 ({machine["hardware"]}, {machine["threads"]} thread(s), '
            f'{machine["allocator"]})')


def new_axes(title: str, panels: int = 1):
    """A figure and its panels, side by side."""
    figure = Figure(figsize=(1.5 + 5.5 * panels, 4.6), dpi=110, layout='constrained')
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(1, panels, squeeze=False)[0]
    for axes in grid:
        axes.grid(alpha=0.3, which='both')
        axes.spines[['top', 'right']].set_visible(False)
    return figure, *grid


def draw_growth(axes, cases: Sequence[dict], value: Callable, label: str) -> None:
    """A value against the number of pixels, a line per contestant."""
    for row in cases[-1]['rows']:
        found = [(math.prod(case['size']), find_row(case, row['form'])) for case in cases]
        points = [(pixels, value(other)) for pixels, other in found
                  if other is not None and 'times' in other and value(other) is not None]
        if points:
            axes.plot(*zip(*points), marker='o', label=row['form'],
                      linestyle='--' if ', ' in row['form'] or row['form'] == 'explicit' else '-')
    axes.set(xscale='log', yscale='log', ylabel=label, xlabel='image')
    axes.set_xticks([math.prod(case['size']) for case in cases],
                    ['{} x {}'.format(*case['size']) for case in cases], fontsize=8)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=8)


def milliseconds(row: dict) -> float:
    """Median time of a contestant."""
    return 1e3 * row['seconds']


def megabytes(row: dict) -> Optional[float]:
    """Peak memory of a contestant, never 0, which logarithmic axes do not show.

    What another process took is measured in another way: None.
    """
    return max(row['memory_mb'], 0.1) if 'memory_mb' in row else None


def draw_scaling(cases: Sequence[dict], path: Path) -> None:
    """Draw how time and memory of an operator grow with the image, in two panels.

    Args:
        cases (Sequence[dict]): One operator at several sizes.
        path (Path): PNG file to write.
    """
    cases = sorted(cases, key=lambda case: math.prod(case['size']))
    name = cases[0]['name'].rpartition(',')[0]
    title = f'{name}, {cases[0]["passes"]}, {describe(cases[0])}'
    figure, left, right = new_axes(title, panels=2)
    draw_growth(left, cases, milliseconds, 'ms')
    draw_growth(right, cases, megabytes, 'peak extra memory, MB')
    write_atomically(path, lambda file: figure.savefig(file))


def draw_parameters(case: dict) -> Figure:
    """Images per second against parameters at one size."""
    figure, axes = new_axes('{} x {}, '.format(*case['size']) + describe(case))
    for row in case['rows']:
        if 'times' in row:
            point = row['parameters'] / 1e6, 1 / row['seconds']
            axes.plot(*point, marker='o', linestyle='')
            axes.annotate(row['form'], point, xytext=(5, 4), textcoords='offset points', fontsize=8)
    axes.margins(x=0.2)
    axes.set(xlabel='parameters of the backbone, M', ylabel='images / s')
    return figure


def draw(cases: Sequence[dict], folder: Path) -> list[Path]:
    """Draw time and memory against the size of the image, and speed against parameters.

    Args:
        cases (Sequence[dict]): Of the backbones.
        folder (Path): Where ``performance_*.png`` are written.

    Returns:
        list[Path]: What was written; nothing without results.
    """
    cases = chosen(cases)
    if not cases:
        return []
    time, time_axes = new_axes(describe(cases[0]))
    memory, memory_axes = new_axes(describe(cases[0]))
    draw_growth(time_axes, cases, milliseconds, 'ms')
    draw_growth(memory_axes, cases, megabytes, 'peak extra memory, MB')
    figures = dict(time=time, memory=memory, parameters=draw_parameters(cases[-1]))
    paths = []
    for name, figure in figures.items():
        path = Path(folder) / f'performance_{name}.png'
        # Without metadata, the same results give the same file.
        write_atomically(path, lambda file, figure=figure: figure.savefig(
            file, metadata=dict(Software=None)))
        paths.append(path)
    return paths
