"""Contact sheet: pictures with their ground truth and, beside it, the detections."""
from collections.abc import Sequence
from pathlib import Path
from typing import Union

import cv2
import mmcv
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData

_TILE = 480  # pixels of the longer side of a picture while boxes are drawn onto it
_TILE_INCHES = 3.2
_FONT_SIZE = 12


class _TileVisualizer(DetLocalVisualizer):
    """MMDetection's drawing of boxes, with labels of one size that never leave the picture."""

    def draw_texts(self, texts, positions, **kwargs) -> 'DetLocalVisualizer':
        kwargs['font_sizes'] = _FONT_SIZE
        super().draw_texts(texts, positions, **kwargs)
        label = self.ax_save.texts[-1]
        # Rendered extent in pixels of the canvas, which is as large as the picture; y points up.
        extent = label.get_window_extent(self.fig_save_canvas.get_renderer())
        pad = 4
        x, y = label.get_position()
        x -= max(0, extent.x1 + pad - self.width)
        y -= max(0, pad - extent.y0)
        label.set_position((max(pad, x), max(pad, y)))
        return self


def _boxes_only(instances: InstanceData, scale: float, height: int, width: int) -> InstanceData:
    """Boxes, labels and scores, the boxes scaled and clipped to (height, width)."""
    boxes = instances.bboxes
    boxes = getattr(boxes, 'tensor', boxes).detach().cpu()  # HorizontalBoxes or a plain tensor
    boxes = torch.minimum((boxes * scale).clamp(min=0),
                          torch.tensor([width, height, width, height]) - 1.)
    kept = InstanceData(bboxes=boxes, labels=instances.labels.detach().cpu())
    if 'scores' in instances:
        kept.scores = instances.scores.detach().cpu()
    return kept


def _draw_pair(visualizer: DetLocalVisualizer, sample: DetDataSample,
               score_thr: float) -> list[np.ndarray]:
    """[ground truth, detections] as RGB pictures whose longer side is ``_TILE``."""
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    scale = _TILE / max(image.shape[:2])
    # Enlarged before drawing, so that lines and letters are sharp on small pictures too.
    image = cv2.resize(image, None, fx=scale, fy=scale,
                       interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    classes = visualizer.dataset_meta['classes']
    palette = visualizer.dataset_meta['palette']
    found = sample.pred_instances
    found = found[found.scores >= score_thr]
    return [visualizer._draw_instances(image, _boxes_only(instances, scale, *image.shape[:2]),
                                       classes, palette)
            for instances in (sample.gt_instances, found)]


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
                       pairs_per_row: int = 2, title: str = '') -> None:
    """Draw ground truth and detections side by side.

    Args:
        samples: Predictions on test images, see :func:`predict`. Their test pipeline must load
            annotations after resizing, as MMDetection's do: then both are in pixels of the file.
        dataset_meta: ``classes`` (names) and ``palette`` (one RGB colour per class).
        out: PNG file to write.
        score_thr: Detections below this score are left out.
        pairs_per_row: Pictures per row; each takes two columns.
        title: Text above the sheet.

    Raises:
        ValueError: If there are no samples.
    """
    if not samples:
        raise ValueError('a contact sheet needs at least one picture, but samples is empty')
    visualizer = _TileVisualizer(line_width=2, text_color=(255, 255, 255), alpha=1.0)
    visualizer.dataset_meta = dict(dataset_meta)
    pairs_per_row = min(pairs_per_row, len(samples))
    rows = -(-len(samples) // pairs_per_row)
    figure = Figure(figsize=(2 * pairs_per_row * _TILE_INCHES, rows * _TILE_INCHES + 0.7),
                    dpi=100, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2 * pairs_per_row, squeeze=False)
    for cell in axes.flat:
        cell.set_axis_off()
    for i, sample in enumerate(samples):
        row, column = divmod(i, pairs_per_row)
        for side, picture in enumerate(_draw_pair(visualizer, sample, score_thr)):
            axes[row, 2 * column + side].imshow(picture)
    for column in range(pairs_per_row):
        axes[0, 2 * column].set_title('ground truth', fontsize=13)
        axes[0, 2 * column + 1].set_title(f'detections (score >= {score_thr:g})', fontsize=13)
    if title:
        figure.suptitle(title, fontsize=14)
    figure.savefig(out, format='png')
