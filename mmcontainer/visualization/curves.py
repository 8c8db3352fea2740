"""Loss and AP curves from the log that mmengine writes anyway."""
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_AP_LINES = (('coco/bbox_mAP', 'AP, IoU 0.50:0.95'), ('coco/bbox_mAP_50', 'AP50'),
             ('coco/bbox_mAP_75', 'AP75'), ('coco/segm_mAP', 'mask AP, IoU 0.50:0.95'))
_PUBLISHED = dict(color='black', marker='o', markersize=5, markerfacecolor='white', linewidth=1,
                  linestyle='--')
_LOSS_LINES = (('loss', 'total', 'tab:blue'), ('loss_cls', 'classification', 'tab:orange'),
               ('loss_bbox', 'box regression', 'tab:green'))


@dataclass(frozen=True)
class PublishedCurve:
    """Numbers of a published training by the steps of the log that they are drawn with.

    Attributes:
        loss: Total training loss by iteration, the first of which is 1.
        ap: {metric: {step: AP}} with metrics as 'coco/bbox_mAP', AP from 0 to 1, and steps that
            are epochs, or iterations where training counts these.
    """
    loss: Mapping[float, float]
    ap: Mapping[str, Mapping[float, float]]


def read_scalars(path: Union[str, Path]) -> tuple[list[dict], list[dict]]:
    """Read mmengine's ``vis_data/scalars.json`` (one JSON object per line).

    Returns:
        Training records (they have ``loss``, and ``step`` counts iterations) and validation records
        (they have a ``coco/...`` metric, and ``step`` counts epochs), each in the file's order.
        Where training counts iterations, mmengine writes step 0 for every validation; here it is
        then the iteration of the training record before.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is no JSON object, or no line is a training record.
    """
    train, val = [], []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            step_is_there = 'step' in record
        except (ValueError, TypeError):
            step_is_there = False
        if not step_is_there:
            raise ValueError(f'{path}, line {number}: expected a JSON object with "step", as '
                             f'mmengine writes them, found {line[:60]!r}')
        if 'loss' in record:
            train.append(record)
        elif any(key.startswith('coco/') for key in record):
            if record['step'] == 0 and train and not _counts_epochs(train):
                record['step'] = train[-1]['step']
            val.append(record)
    if not train:
        raise ValueError(f'{path} has no training record (no line with "loss")')
    return train, val


def _counts_epochs(train: list[dict]) -> bool:
    return 'epoch' in train[0]


def _begin(points: Mapping[float, float], end: float) -> tuple[list[float], list[float]]:
    """Steps and values of published points, up to the first one after the end of a run."""
    steps = sorted(points)
    number = sum(step <= end for step in steps) + 1
    return steps[:number], [points[step] for step in steps[:number]]


def smooth(values: np.ndarray, span: int) -> np.ndarray:
    """Exponential moving average of a (N,) series, unbiased at its start.

    Point i weighs point j <= i by (1 - 2 / (span + 1)) ** (i - j).
    """
    keep = 1 - 2 / (span + 1)
    result = np.empty(len(values))
    total = weight = 0.0
    for i, value in enumerate(values):
        total = keep * total + value
        weight = keep * weight + 1
        result[i] = total / weight
    return result


def _draw_loss(axes, train: list[dict], published: Optional[PublishedCurve]) -> None:
    top = None
    if published is not None and published.loss:
        steps, values = _begin(published.loss, train[-1]['step'])
        axes.plot(steps, values, **_PUBLISHED, label='published')
        # The first losses of a run are so high that they would squeeze what is to be compared.
        top = max(2 * max(values), 1.2 * train[-1]['loss'])
    for key, label, colour in _LOSS_LINES:
        records = [record for record in train if key in record]
        if not records:
            continue
        steps = [record['step'] for record in records]
        values = np.array([record[key] for record in records], float)
        marker = 'o' if len(values) == 1 else None  # a line needs two points to be seen
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
        axes.plot(steps, smooth(values, max(1, len(values) // 20)), color=colour, linewidth=2,
                  marker=marker, label=label)
    axes.plot([], [], color='grey', alpha=0.5, linewidth=1, label='as logged')
    axes.set(xlabel='iteration', ylabel='training loss', title='training loss (smoothed)')
    axes.set_ylim(bottom=0, top=top)
    axes.set_xlim(left=0)
    axes.legend(frameon=False)


def _draw_ap(axes, val: list[dict], published: Optional[PublishedCurve], unit: str) -> None:
    end = last = max([record['step'] for record in val], default=0)
    for key, label in _AP_LINES:
        records = [record for record in val if key in record]
        if not records:
            continue
        steps, values = zip(*[(record['step'], record[key]) for record in records])
        (line, ) = axes.plot(steps, values, marker='o', markersize=4, label=label)
        axes.annotate(f'{values[-1]:.3f}', (steps[-1], values[-1]), xytext=(6, 0),
                      textcoords='offset points', va='center', color=line.get_color())
        points = published.ap.get(key) if published is not None else None
        if points:
            steps, values = _begin(points, last)
            axes.plot(steps, values, **{**_PUBLISHED, 'color': line.get_color()},
                      label=f'published {label.split(",")[0]}')
            end = max(end, steps[-1])
    axes.set(xlabel=unit, ylabel='average precision', title='validation AP', ylim=(0, 1))
    # Room for the numbers at the ends of the lines.
    axes.set_xlim(0, 1.15 * (end or 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if val:
        axes.legend(frameon=False, loc='upper left')
    else:
        axes.text(0.5, 0.5, 'no validation in this log', transform=axes.transAxes, ha='center')


def draw_curves(scalars: Union[str, Path], out: Union[str, Path], title: str = '',
                published: Optional[PublishedCurve] = None) -> None:
    """Draw the training loss by iteration and the validation AP by epoch.

    Where training counts iterations, AP is by iteration too.

    Args:
        scalars: ``vis_data/scalars.json`` of a run.
        out: PNG file to write.
        title: Text above both panels.
        published: Drawn as points and a dashed line, up to the first point after the run's end.

    Raises:
        FileNotFoundError: If ``scalars`` does not exist.
        ValueError: If it is not a log of a training run.
    """
    train, val = read_scalars(scalars)
    # Directly, not by pyplot: no global state, no display needed.
    figure = Figure(figsize=(11, 4.2), dpi=110, layout='constrained')
    left, right = figure.subplots(1, 2)
    _draw_loss(left, train, published)
    _draw_ap(right, val, published, 'epoch' if _counts_epochs(train) else 'iteration')
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    if title:
        figure.suptitle(title)
    figure.savefig(out, format='png')
