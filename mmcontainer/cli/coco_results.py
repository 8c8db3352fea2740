"""Detections in the format of COCO results, which pycocotools and evaluation servers read."""
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ..api.results import Detections
from ..errors import UserError
from ..pipeline import ImageError
from .images import readable

RESULTS, IMAGES = 'predictions.json', 'predictions_images.json'


class CocoResults:
    """Gathers detections for ``COCO(annotations).loadRes('predictions.json')``.

    Args:
        classes (Sequence[str]): Names of the classes.
        annotations (str, optional): COCO file whose numbers of images and categories are used.
            Without one, both are counted from 1, and ``predictions_images.json``, a COCO file
            without annotations, says which is which.

    Raises:
        UserError: The file cannot be read, or has no category of a class.
    """

    def __init__(self, classes: Sequence[str], annotations: Optional[str] = None):
        self._annotations, self._results = annotations, []
        self._known = dict(images=[], annotations=[], categories=[
            dict(id=number, name=name) for number, name in enumerate(classes, start=1)])
        try:
            if annotations is not None:
                self._known = json.loads(Path(annotations).expanduser().read_text('utf-8'))
            # Windows writes other slashes; MMDetection reads a copy without them.
            self._left = {image['file_name'].replace('\\', '/'): image['id']
                          for image in self._known['images']}
            numbers = {category['name']: category['id'] for category in self._known['categories']}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f'--annotations {annotations}: a COCO file with images and categories '
                            f'is expected ({type(error).__name__}: {error}).') from error
        missing = [name for name in classes if name not in numbers]
        if missing:
            raise UserError(f'--annotations {annotations} has no category {missing[0]!r}, which is '
                            f'a class of the model; it has {", ".join(map(str, numbers))}.')
        self._categories = [numbers[name] for name in classes]

    def add(self, found: dict[str, Detections]) -> None:
        """Add what was found in an image, or in all images of a video.

        Args:
            found (dict[str, Detections]): By the paths of the images, which end with ``file_name``
                of their entries in the annotations.

        Raises:
            ImageError: The annotations have no such image, or it has been added before. Nothing is
                added then.
            ValueError: Numbers that are no JSON, which else would spoil the whole file.
        """
        for one in found.values():
            one.to_json()
        numbers = self._count(found) if self._annotations is None else self._look_up(found)
        for number, one in zip(numbers, found.values()):
            self._results += one.to_coco(number, self._categories)

    def _count(self, found: dict[str, Detections]) -> list[int]:
        images = self._known['images']
        numbers = list(range(len(images) + 1, len(images) + 1 + len(found)))
        images += [dict(id=number, file_name=readable(path), height=one.height, width=one.width)
                   for number, (path, one) in zip(numbers, found.items())]
        return numbers

    def _look_up(self, found: dict[str, Detections]) -> list[int]:
        names = []
        for path in found:
            parts = Path(path).absolute().parts
            endings = ('/'.join(parts[start:]) for start in range(1, len(parts)))
            name = next((ending for ending in endings if ending in self._left), None)
            if name is None:
                raise ImageError(f'{self._annotations} has no such image, or it has been done')
            names.append(name)
        return [self._left.pop(name) for name in names]

    def files(self) -> dict[str, Any]:
        """Names of the files to write, and their contents."""
        files = {RESULTS: self._results}
        if self._annotations is None:
            files[IMAGES] = self._known
        return files
