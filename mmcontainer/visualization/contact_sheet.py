"""Contact sheet: pictures with their ground truth and, beside it, the detections."""
from collections.abc import Sequence
from pathlib import Path
from typing import Union

import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate

from .detections import DetectionVisualizer

_TILE = 480  # pixels of the longer side of a picture while boxes are drawn onto it
_TILE_INCHES = 3.2


def predict(model: torch.nn.Module, dataset, indices: Sequence[int]) -> list[DetDataSample]:
    """Run a detector on some entries of a test data set.

    Args:
        model: A detector with ``test_step``; it is left in evaluation mode.
        dataset: A test data set whose pipeline loads annotations, too.
        indices: Which entries.

    Returns:
        One sample each with ``img_path``, ``gt_instances`` and ``pred_instances``, boxes in pixels
        of the file.
    """
    model.eval()
    with torch.no_grad():
        return [model.test_step(pseudo_collate([dataset[i]]))[0] for i in indices]


def draw_contact_sheet(samples: Sequence[DetDataSample], dataset_meta: dict,
                       out: Union[str, Path], score_thr: float = 0.3,
                       title: str = '') -> None:
    """Draw ground truth and detections side by side.

    Args:
        samples: Predictions on test images, at least one, see :func:`predict`. Their test pipeline
            must load annotations after resizing, as MMDetection's do: then both are in pixels of
            the file.
        dataset_meta: ``classes`` (names) and ``palette`` (one RGB colour per class).
        out: PNG file to write.
        score_thr: Detections below this score are left out.
        title: Text above the sheet.
    """
    visualizer = DetectionVisualizer(dataset_meta, sides=(_TILE, _TILE), alpha=1.0)
    pairs_per_row = min(2, len(samples))  # each takes two columns
    rows = -(-len(samples) // pairs_per_row)
    figure = Figure(figsize=(2 * pairs_per_row * _TILE_INCHES, rows * _TILE_INCHES + 0.7),
                    dpi=100, layout='constrained')
    axes = figure.subplots(rows, 2 * pairs_per_row, squeeze=False)
    for cell in axes.flat:
        cell.set_axis_off()
    for i, sample in enumerate(samples):
        row, column = divmod(i, pairs_per_row)
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        pair = visualizer.draw(image, sample, score_thr, truth=True)
        for side, picture in enumerate(np.split(pair, 2, axis=1)):
            axes[row, 2 * column + side].imshow(picture)
    for column in range(pairs_per_row):
        axes[0, 2 * column].set_title('ground truth', fontsize=13)
        axes[0, 2 * column + 1].set_title(f'detections (score >= {score_thr:g})', fontsize=13)
    if title:
        figure.suptitle(title, fontsize=14)
    figure.savefig(out, format='png')
