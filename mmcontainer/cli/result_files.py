"""Names and files of what ``tools/infer.py`` has found."""
import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmcv
import numpy as np

from ..errors import UserError
from ..fileio import write_atomically
from ..pipeline import ImageError
from .images import ImageFile, readable
from .paths import check_writable_folder


class OutputNames:
    """Names of output files: those of the inputs, told apart where two inputs share one.

    Args:
        folder (Path): Folder of the results.
        images (Iterable[ImageFile]): All images and videos.
    """

    def __init__(self, folder: Path, images: Iterable[ImageFile]):
        self.folder = folder
        self._inputs = {os.path.realpath(image.path) for image in images}
        self._used = set()

    def __call__(self, image: ImageFile) -> Path:
        """Return the path of the picture, or video, for an input; its JSON has the same stem."""
        folder, stem, number = self.folder / image.name.parent, image.name.stem, 1
        suffix = '.mp4' if image.is_video else '.jpg'
        while folder / stem in self._used or (
                os.path.realpath(folder / f'{stem}{suffix}') in self._inputs):
            number += 1
            stem = f'{image.name.stem}_{number}'
        self._used.add(folder / stem)
        return folder / f'{stem}{suffix}'


def check_folder(folder: Path, images: list[ImageFile]) -> None:
    """Make the folder of the results, unless it is a place where they would do harm.

    Raises:
        UserError: A file, a folder that cannot be written, or one that holds the images.
    """
    among = next((image for image in images if os.path.realpath(
        os.path.dirname(image.path)) == os.path.realpath(folder)), None)
    if among is not None:
        raise UserError(f'--out-dir {readable(folder)} is the folder of {readable(among.path)}: '
                        'results would lie among the images. Name another one.')
    check_writable_folder(folder, '--out-dir')


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Make the folder of a result, and explain why one cannot be written.

    Raises:
        ImageError: If the input's name has no room for the suffix of the JSON.
        UserError: If the disk is full, say: the other inputs would fare no better.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ImageError('its name is too long for a result') from error
        raise UserError(f'{readable(target)} cannot be written: {error.strerror}.') from error


def as_json(content: Any) -> str:
    """JSON of plain data.

    Raises:
        ValueError: Numbers that are none.
    """
    return json.dumps(content, indent=1, allow_nan=False)


def write_picture(target: Path, picture: np.ndarray) -> None:
    """Write a picture, (H, W, 3) in RGB."""
    write_atomically(target, lambda file: mmcv.imwrite(picture[..., ::-1], file))
