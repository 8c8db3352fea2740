"""What a detector found in an image, as plain data: the JSON of ``tools/infer.py``."""
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from ..errors import UserError

# COCO numbers its 80 classes from 1 to 90.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_IDS = [number for number in range(1, 91) if number not in _COCO_GAPS]
_SCORE_DIGITS, _PIXEL_DIGITS = 6, 3


@dataclass
class Detection:
    """One object.

    Attributes:
        label: Number of its class, from 0.
        class_name: Its name; ``class`` in JSON.
        score: From 0 to 1, rounded to 6 digits.
        bbox: [x1, y1, x2, y2] in pixels of the image, rounded to 3 digits.
        mask: COCO's compressed run-length code, ``dict(size=[height, width], counts=...)``, as
            pycocotools reads it; None if the model predicts no masks.
    """
    label: int
    class_name: str
    score: float
    bbox: list[float]
    mask: Optional[dict[str, Any]] = None

    def to_dict(self) -> dict[str, Any]:
        """The object as it stands in JSON."""
        shown = {'label': self.label, 'class': self.class_name, 'score': self.score,
                 'bbox': self.bbox}
        return shown if self.mask is None else {**shown, 'mask': self.mask}

    def binary_mask(self) -> np.ndarray:
        """The mask as (height, width), bool.

        Raises:
            UserError: The model predicts no masks.
        """
        from pycocotools import mask
        if self.mask is None:
            raise UserError('This object has no mask: its model predicts boxes only.')
        return mask.decode(self.mask).astype(bool)


@dataclass
class Detections:
    """All objects of one image, best first; iterates over them, and has their number as length.

    Attributes:
        image: Name of the image; None for one that was given as an array.
        height, width: Of the image as the test pipeline decodes it (upright, as viewers show
            it, but for formats that OpenCV does not turn, as WebP): boxes and masks are in its
            pixels.
        detections: The objects.
        meta: ``classes`` (all names, or None) and ``palette`` (colours, or None), and ``style``
            (options of the drawing). Not part of the JSON.
        pixels: Returns the image, (H, W) or (H, W, C) in BGR. Not part of the JSON.
    """
    image: Optional[str]
    height: int
    width: int
    detections: list[Detection]
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    pixels: Optional[Callable[[], np.ndarray]] = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.detections)

    def __iter__(self) -> Iterator[Detection]:
        return iter(self.detections)

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file that ``tools/infer.py`` writes."""
        return dict(image=self.image, height=self.height, width=self.width,
                    detections=[detection.to_dict() for detection in self])

    def to_json(self) -> str:
        """The JSON file that ``tools/infer.py`` writes.

        Raises:
            ValueError: A box or score is not a number.
        """
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> 'Detections':
        """The inverse of :meth:`to_dict`; ``draw`` then needs to be given the image, and
        ``to_coco`` the numbers of the classes.
        """
        found = [Detection(label=one['label'], class_name=one['class'], score=one['score'],
                           bbox=one['bbox'], mask=one.get('mask'))
                 for one in content['detections']]
        return cls(content['image'], content['height'], content['width'], found)

    def to_coco(self, image_id: Union[int, str, None] = None,
                category_ids: Union[Sequence[int], Mapping[str, int], None] = None
                ) -> list[dict[str, Any]]:
        """The objects in COCO's format of results, for ``COCO.loadRes`` and other evaluators.

        Args:
            image_id (int | str, optional): Number of the image in the annotation file; without it
                the name of the file without suffix, as a number if it is one, which is right for
                COCO's own images.
            category_ids (Sequence[int] | Mapping[str, int], optional): Number of each class in the
                annotation file, in the order of the labels or by name. Without it COCO's own for
                COCO's 80 classes, and 1, 2, ... for any others.

        Returns:
            list[dict]: ``image_id``, ``category_id``, ``bbox`` [x, y, width, height], ``score``,
            and ``segmentation`` (run-length code) where there are masks.

        Raises:
            UserError: No ``image_id`` for an image without a name, a class without a number, or no
                ``category_ids`` for results that were read from a file.
        """
        if image_id is None:
            if self.image is None:
                raise UserError('to_coco needs image_id: the image was given as an array, without '
                                'a name.')
            stem = Path(self.image).stem
            image_id = int(stem) if stem.isdecimal() else stem
        results = []
        for one in self:
            x1, y1, x2, y2 = one.bbox
            box = [x1, y1, round(x2 - x1, _PIXEL_DIGITS), round(y2 - y1, _PIXEL_DIGITS)]
            result = dict(image_id=image_id, category_id=self._category(one, category_ids),
                          bbox=box, score=one.score)
            results.append(result if one.mask is None else {**result, 'segmentation': one.mask})
        return results

    def _category(self, one: Detection, category_ids) -> int:
        if category_ids is None:
            if 'classes' not in self.meta:
                raise UserError('to_coco needs category_ids: these results were read from a file, '
                                'which does not say how many classes there are.')
            return _COCO_IDS[one.label] if _is_coco(self.meta.get('classes')) else one.label + 1
        try:
            return category_ids[one.class_name if isinstance(category_ids, Mapping) else one.label]
        except (KeyError, IndexError) as error:
            raise UserError(f'category_ids has no number for {one.class_name!r}, label '
                            f'{one.label}.') from error

    def draw(self, image: Optional[np.ndarray] = None, score_thr: float = 0.) -> np.ndarray:
        """Draw the objects on the image, as ``tools/infer.py`` does: small images are enlarged.

        Args:
            image (np.ndarray, optional): (height, width) or (height, width, 3) in BGR, uint8;
                without it the image in which the objects were found, whose file is read again.
            score_thr (float): Objects with a lower score are left out.

        Returns:
            np.ndarray: (H, W, 3) in **RGB**, uint8, for example for ``PIL.Image.fromarray``.

        Raises:
            UserError: No image, or one of another size.
        """
        if image is None and self.pixels is None:
            raise UserError('draw needs the image, (height, width, 3) in BGR: these results were '
                            'read from a file.')
        pixels = self.pixels() if image is None else image
        if not isinstance(pixels, np.ndarray):
            raise UserError('draw needs an array (height, width, 3) in BGR, got '
                            f'{type(pixels).__name__}.')
        if pixels.shape[:2] != (self.height, self.width):
            raise UserError(f'The image has {pixels.shape[1]} x {pixels.shape[0]} pixels, but '
                            f'these objects were found in one of {self.width} x {self.height}.')
        from ..visualization.detections import DetectionVisualizer, as_rgb
        meta = {key: self.meta.get(key) for key in ('classes', 'palette')}
        if meta['classes'] is None:
            meta['classes'] = {one.label: one.class_name for one in self}
        visualizer = DetectionVisualizer(meta, **self.meta.get('style', {}))
        return visualizer.draw(as_rgb(pixels), self._sample(), score_thr)

    def _sample(self):
        """The objects as MMDetection's visualizer takes them."""
        import torch
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData
        found = InstanceData(
            bboxes=torch.tensor([one.bbox for one in self]).reshape(-1, 4),
            scores=torch.tensor([one.score for one in self]),
            labels=torch.tensor([one.label for one in self], dtype=torch.long))
        if any(one.mask is not None for one in self):
            found.masks = np.stack([one.binary_mask() for one in self])
        return DetDataSample(pred_instances=found)


def _is_coco(classes: Optional[Sequence[str]]) -> bool:
    from mmdet.datasets import CocoDataset
    # MMDetection itself writes 'traffic light' in some places and 'traffic_light' in others.
    names = [name.replace('_', ' ') for name in classes or ()]
    return names == list(CocoDataset.METAINFO['classes'])


def describe(sample, meta: Mapping[str, Any], image: Optional[str],
             threshold: float) -> Detections:
    """Turn a prediction into plain data.

    Args:
        sample (DetDataSample): Prediction for one image.
        meta (Mapping): See :class:`Detections`; without ``classes`` labels are numbered.
        image (str, optional): Name of the image.
        threshold (float): Detections with a lower score are left out.

    Returns:
        Detections: Best first.
    """
    from mmdet.structures.mask import encode_mask_results
    found = sample.pred_instances
    found = found[found.scores >= threshold].cpu()
    found = found[found.scores.argsort(descending=True, stable=True)]
    masks = encode_mask_results(found.masks.numpy()) if 'masks' in found else [None] * len(found)
    classes, detections = meta.get('classes'), []
    for label, score, box, mask in zip(found.labels.tolist(), found.scores.tolist(),
                                       found.bboxes.tolist(), masks):
        detections.append(Detection(
            label, f'class {label}' if classes is None else classes[label],
            round(score, _SCORE_DIGITS), [round(value, _PIXEL_DIGITS) for value in box],
            mask and dict(size=list(mask['size']), counts=mask['counts'].decode())))
    height, width = sample.ori_shape[:2]
    return Detections(image, height, width, detections, meta)
