"""COCO AP of an ONNX file, by ``tools/onnx_detect.py``, the code that people run it with."""
import contextlib
import importlib.util
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..compat import own_folder
from ..data_check.annotations import read_annotations
from ..data_check.repair import write_repaired
from ..errors import UserError

_NAME = 'mmcontainer_onnx_detect'


def onnx_detect() -> ModuleType:
    """``tools/onnx_detect.py`` as a module; it is a script that stands alone."""
    if _NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(_NAME, own_folder('tools') / 'onnx_detect.py')
        module = importlib.util.module_from_spec(spec)
        sys.modules[_NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[_NAME]


def load_file(path: Path):
    """The ``Detector`` of ``onnx_detect.py`` for an ONNX file.

    Its attribute ``session`` may be replaced by any object with a method ``run(names, feed)``, by
    one that runs the file with OpenVINO, for example.

    Raises:
        UserError: No such file, or no detector that ``tools/export_onnx.py`` wrote.
    """
    if not Path(path).is_file():
        raise UserError(f'{path}: there is no such file. tools/export_onnx.py writes one.')
    try:
        return onnx_detect().Detector(path)
    except ValueError as error:
        raise UserError(f'{error}.') from error


@dataclass
class GroundTruth:
    """Annotated images.

    Attributes:
        coco (COCO): The annotations.
        images (dict[int, Path]): Files of the images, by their numbers.
        categories (list[int]): Numbers of the categories, in the order of the classes of a model.
        has_masks (bool): Whether every object has one.
    """
    coco: COCO
    images: dict[int, Path]
    categories: list[int]
    has_masks: bool


def read_ground_truth(annotations: Path, folder: Path, classes: Sequence[str]) -> GroundTruth:
    """Read annotations, and find the images that they belong to.

    Args:
        annotations (Path): JSON in COCO's layout; repaired as for a test, the file stays as it is.
        folder (Path): Where the images lie.
        classes (Sequence[str]): Names of the classes of the model, each a category of the file.

    Raises:
        UserError: One of them cannot be read, images are missing, or no object is of these classes.
    """
    try:
        read = read_annotations(annotations)
    except OSError as error:
        raise UserError(f'{annotations} cannot be read ({error.strerror}): a file of annotations '
                        'in COCO format is expected.') from error
    if read.problems:
        raise UserError(f'{annotations} cannot be used: {"; ".join(read.problems)}.')
    numbers = {category.name: category.id for category in read.categories}
    lacking = [name for name in classes if name not in numbers]
    if lacking:
        raise UserError(
            f'{annotations} has no category {lacking[0]!r}, which is a class of the model; it has '
            f'{", ".join(numbers)}. Name the annotations of data that the model was trained for.')
    if not set(read.instances) & {numbers[name] for name in classes}:
        raise UserError(f'{annotations} has no object of the classes of the model.')
    with TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
        # As a test does: ids from 0, say, would give a wrong AP.
        coco = COCO(str(write_repaired(annotations, read.repairs, Path(temporary))
                        if read.repairs else annotations))
    images = {image['id']: Path(folder, image['file_name']) for image in coco.dataset['images']}
    missing = [path for path in images.values() if not path.is_file()]
    if missing:
        raise UserError(f'{len(missing)} of the {len(images)} images of {annotations} are not in '
                        f'{folder}: {missing[0].name}{" and others" if len(missing) > 1 else ""}. '
                        'Name the folder that file_name of the annotations starts from.')
    return GroundTruth(coco, images, [numbers[name] for name in classes],
                       all(entry.get('segmentation') for entry in coco.anns.values()))


def _entries(result: Any, number: int, categories: Sequence[int]) -> list[dict[str, Any]]:
    """Detections in an image, with this number, as COCO results."""
    entries = []
    for i, (box, score, label) in enumerate(zip(result.boxes, result.scores, result.labels)):
        x1, y1, x2, y2 = box.tolist()
        entries.append(dict(image_id=number, category_id=categories[label], score=float(score),
                            bbox=[x1, y1, x2 - x1, y2 - y1]))
        if result.box_masks is not None:
            entries[-1]['segmentation'] = rle.encode(np.asfortranarray(result.mask(i), np.uint8))
    return entries


def _mean_ap(truth: GroundTruth, entries: list[dict[str, Any]], metric: str) -> float:
    if metric == 'segm':  # else pycocotools takes the area of the box, not that of the mask
        entries = [{key: value for key, value in entry.items() if key != 'bbox'}
                   for entry in entries]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth.coco, truth.coco.loadRes(entries), metric)
        evaluation.params.imgIds = list(truth.images)
        evaluation.params.catIds = truth.categories
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def average_precision(detector: Any, truth: GroundTruth) -> dict[str, float]:
    """COCO AP (IoU 0.50:0.95) of a detector, as ``tools/test.py`` measures it.

    Args:
        detector (Detector): See :func:`load_file`.
        truth (GroundTruth): The annotated images.

    Returns:
        dict[str, float]: From 0 to 1: 'bbox', and 'segm' of a file with masks, if the annotations
        have some.

    Raises:
        UserError: An image cannot be read.
    """
    entries = []
    for number, path in truth.images.items():
        try:
            result = detector(path)
        except ValueError as error:
            raise UserError(f'{path}: {error}') from error
        entries += _entries(result, number, truth.categories)
    with_masks = 'masks' in detector.outputs and truth.has_masks
    metrics = ['bbox', 'segm'] if with_masks else ['bbox']
    if not entries:
        return dict.fromkeys(metrics, 0.)
    return {metric: _mean_ap(truth, entries, metric) for metric in metrics}
