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
            self._left = {image['file_name']: image['id'] for image in self._known['images']}
            numbers = {category['name']: category['id'] for category in self._known['categories']}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f'--annotations {annotations}: a COCO file with images and categories '
                            f'is expected ({type(error).__name__}: {error}).') from error
        missing = [name for name in classes if name not in numbers]
        if missing:
            raise UserError(f'--annotations {annotations} has no category {missing[0]!r}, which is '
                            f'a class of the model; it has {", ".join(map(str, numbers))}.')
        self._categories = [numbers[name] for name in classes]

    def add(self, path: str, found: Detections) -> None:
        """Add what was found in an image.

        Args:
            path (str): The image; ends with ``file_name`` of its entry in the annotations.
            found (Detections): What was found.

        Raises:
            ImageError: The annotations have no such image, or it has been added before.
            ValueError: Numbers that are no JSON, which else would spoil the whole file.
        """
        found.to_json()
        self._results += found.to_coco(self._number(path, found), self._categories)

    def _number(self, path: str, found: Detections) -> int:
        if self._annotations is None:
            number = len(self._known['images']) + 1
            self._known['images'].append(
                dict(id=number, file_name=readable(path), height=found.height, width=found.width))
            return number
        parts = Path(path).absolute().parts
        endings = ('/'.join(parts[start:]) for start in range(1, len(parts)))
        name = next((ending for ending in endings if ending in self._left), None)
        if name is None:
            raise ImageError(f'{self._annotations} has no such image, or it has been done')
        return self._left.pop(name)

    def files(self) -> dict[str, Any]:
        """Names of the files to write, and their contents."""
        files = {RESULTS: self._results}
        if self._annotations is None:
            files[IMAGES] = self._known
        return files
