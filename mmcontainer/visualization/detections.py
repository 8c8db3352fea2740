"""Boxes, masks and labels on pictures that are large enough for them."""
from typing import Any, Optional

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

# In points, on a picture whose longer side has up to _PLAIN pixels; on larger ones in proportion.
_FONT_SIZE, _LINE_WIDTH, _PLAIN = 12, 2, 2000
_STYLE = ('bbox_color', 'text_color', 'mask_color', 'line_width', 'alpha')


def style_of(cfg) -> dict[str, Any]:
    """Colours, opacity and line width that ``visualizer`` of a config asks for."""
    return {key: value for key, value in (cfg.get('visualizer') or {}).items() if key in _STYLE}


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Turn pixels as a pipeline decodes them into a picture.

    Args:
        image (np.ndarray): (H, W) or (H, W, C) in BGR; 8 or 16 bits, or floats from 0 to 255.

    Returns:
        np.ndarray: (H, W, 3) in RGB, uint8.
    """
    if image.dtype == np.uint16:
        image = image / 257
    image = image.clip(0, 255).astype(np.uint8).reshape(*image.shape[:2], -1)
    if image.shape[2] < 3:  # grey, perhaps with alpha
        image = image[..., :1].repeat(3, axis=2)
    return np.ascontiguousarray(image[..., 2::-1])


class DetectionVisualizer(DetLocalVisualizer):
    """MMDetection's drawing, on pictures enlarged first, so that letters do not hide objects.

    Labels have one size and never leave the picture, and scores are written as they are in JSON
    and metrics: from 0 to 1.

    Args:
        dataset_meta (dict): ``classes`` (names, or None) and ``palette`` (colours, or None).
        sides (tuple[int, int]): The longer side of a picture in pixels is brought into this range.
            The upper end bounds time and memory.
        name (str): For MMEngine.
        line_width (float): In points, on a picture of up to 2000 pixels.
        options: Arguments of MMDetection's ``DetLocalVisualizer``.
    """

    def __init__(self, dataset_meta: dict, sides: tuple[int, int] = (960, 4096),
                 name: str = 'detections', line_width: float = _LINE_WIDTH, **options):
        super().__init__(name, **{'text_color': (255, 255, 255), **options})
        self._plain_line_width = line_width
        self.dataset_meta = dict(dataset_meta)
        self.sides = sides

    def draw(self, image: np.ndarray, sample: DetDataSample, score_thr: float,
             truth: bool = False) -> np.ndarray:
        """Draw the detections on an image, and beside them, on the left, the ground truth.

        Args:
            image (np.ndarray): (H, W, 3) in RGB, uint8.
            sample (DetDataSample): ``pred_instances``, and ``gt_instances`` if ``truth``, in
                pixels of the image.
            score_thr (float): Detections with a lower score are left out.
            truth (bool): Whether to draw the ground truth, too.

        Returns:
            np.ndarray: (H', W', 3), or (H', 2 W', 3), in RGB, uint8.
        """
        found = sample.pred_instances
        both = [sample.gt_instances] if truth else []
        both.append(found[found.scores >= score_thr])
        canvas = self._enlarge(image)
        classes, palette = (self.dataset_meta.get(key) for key in ('classes', 'palette'))
        return np.concatenate([
            self._draw_instances(canvas, self._move(instances, image, canvas), classes, palette)
            for instances in both], axis=1)

    def _enlarge(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        longer = max(height, width)
        scale = min(max(longer, self.sides[0]), self.sides[1]) / longer
        if scale == 1:
            return image
        size = max(1, round(width * scale)), max(1, round(height * scale))
        # Before drawing, so that lines and letters are sharp.
        return cv2.resize(image, size,
                          interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)

    def _move(self, instances: InstanceData, image: np.ndarray,
              canvas: np.ndarray) -> InstanceData:
        """Copy the parts of instances that are drawn, in pixels of the canvas."""
        moved = InstanceData()
        if 'bboxes' not in instances:  # no annotations were loaded
            return moved
        (height, width), (rows, columns) = image.shape[:2], canvas.shape[:2]
        boxes = getattr(instances.bboxes, 'tensor', instances.bboxes).detach().cpu()
        boxes = boxes * torch.tensor([columns / width, rows / height] * 2)
        limits = torch.tensor([columns, rows] * 2) - 1.
        moved.bboxes = torch.minimum(boxes.clamp(min=0), limits)
        moved.labels = instances.labels.detach().cpu()
        if 'scores' in instances:
            moved.scores = instances.scores.detach().cpu()
        if 'masks' in instances:
            moved.masks = _resize_masks(instances.masks, rows, columns)
        return moved

    def _draw_instances(self, image: np.ndarray, instances: InstanceData, classes: Optional[Any],
                        palette: Optional[Any]) -> np.ndarray:
        if 'scores' in instances:
            # MMDetection itself would add percent to the names.
            names = [classes[label] if classes is not None else f'class {label}'
                     for label in instances.labels.tolist()]
            named = InstanceData(**{key: value for key, value in instances.items()
                                    if key != 'scores'})
            named.label_names = [f'{name}: {score:.2f}' for name, score in zip(
                names, instances.scores.tolist())]
            instances = named
        return super()._draw_instances(image, instances, classes, palette)

    def set_image(self, image: np.ndarray) -> None:
        super().set_image(image)
        self._magnified = max(1, max(self.width, self.height) / _PLAIN)
        self.line_width = self._plain_line_width * self._magnified

    def draw_texts(self, texts, positions, **kwargs) -> 'DetLocalVisualizer':
        corner = torch.tensor([self.width, self.height]) - 1.
        positions = torch.minimum(torch.as_tensor(positions).float(), corner)
        kwargs['font_sizes'] = _FONT_SIZE * self._magnified
        super().draw_texts(texts, positions, **kwargs)
        label = self.ax_save.texts[-1]
        label.set_parse_math(False)  # a $ in a name is a $
        # Rendered extent in pixels of the canvas, which is as large as the picture; y points up.
        extent = label.get_window_extent(self.fig_save_canvas.get_renderer())
        pad = 4
        x, y = label.get_position()
        x -= max(0, extent.x1 + pad - self.width)
        y -= max(0, pad - extent.y0)
        label.set_position((max(pad, x), max(pad, y)))
        return self

    def draw_binary_masks(self, binary_masks: np.ndarray, colors: list, alphas: float = 0.8,
                          ) -> 'DetLocalVisualizer':
        # MMEngine's works on the whole picture for each mask, and takes ten times as long.
        image = self.get_image().astype(np.float32)
        opacity = alphas / 2  # the object stays visible
        for mask, colour in zip(binary_masks, colors):
            image[mask] = (1 - opacity) * image[mask] + opacity * np.array(colour, np.float32)
        self.ax_save.imshow(image.round().astype(np.uint8),
                            extent=(0, self.width, self.height, 0), interpolation='nearest')
        return self


def _resize_masks(masks: Any, height: int, width: int) -> np.ndarray:
    """Masks of (N, H, W), in any of MMDetection's forms, as (N, height, width), bool."""
    if isinstance(masks, torch.Tensor):
        masks = masks.detach().cpu().numpy()
    elif hasattr(masks, 'to_ndarray'):
        masks = masks.to_ndarray()
    resized = [cv2.resize(np.asarray(mask, np.uint8), (width, height),
                          interpolation=cv2.INTER_NEAREST) for mask in masks]
    return np.array(resized, bool).reshape(len(resized), height, width)
