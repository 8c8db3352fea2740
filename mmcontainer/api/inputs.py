"""What a detector may be given: files, folders, videos, arrays and anything that yields them."""
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union

import numpy as np

from ..cli.images import collect_images, readable
from ..cli.videos import Video, frame_name, is_video
from ..errors import UserError
from ..pipeline import ImageError

Image = Union[str, Path, np.ndarray]


def is_one(images: Any) -> bool:
    """Whether it is a single image, or something wrong in place of one, and not several."""
    if isinstance(images, (str, Path)):
        return not Path(images).is_dir() and not is_video_file(images)
    # Rows of a tensor and keys of a dict are no images.
    return not isinstance(images, Iterable) or isinstance(
        images, (np.ndarray, bytes, dict)) or type(images).__module__.startswith('torch')


def is_video_file(images: Any) -> bool:
    """Whether it is the path of a video, by its suffix."""
    return isinstance(images, (str, Path)) and is_video(str(images))


@contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Name the image in errors about it, which become a ``UserError``."""
    try:
        yield
    except ImageError as error:
        raise UserError(f'{name}: {error}') from error


def iter_images(images: Any) -> Iterator[tuple[Image, Union[str, None]]]:
    """Yield each image, and its name, None where it has none.

    Args:
        images: Folder, whose images come sorted; video, of which every frame comes; or an iterable
            of paths and arrays.

    Raises:
        UserError: A folder without images or with a link to nothing, a video that cannot be read,
            or neither path nor array.
    """
    if is_video_file(images):
        with image_errors(readable(images)):
            for number, frame in enumerate(Video(str(images))):
                yield frame, frame_name(readable(images), number)
    elif isinstance(images, (str, Path)):
        found = collect_images([str(images)])
        if found.problems:
            raise UserError('\n'.join(found.problems))
        for image in found.images:
            yield image.path, readable(image.path)
    else:
        for image in images:
            image = os.path.expanduser(image) if isinstance(image, (str, Path)) else image
            check_kind(image)
            yield image, None if isinstance(image, np.ndarray) else readable(image)


def check_kind(image: Any) -> None:
    """Raise a UserError for anything but the path of an image file or an array of pixels."""
    if isinstance(image, np.ndarray):
        _check_array(image)
    elif not isinstance(image, (str, Path)):
        hint = ''
        if type(image).__module__.startswith('PIL.'):
            hint = (' For a picture of Pillow: np.asarray(ImageOps.exif_transpose(picture)'
                    ".convert('RGB'))[..., ::-1].")
        raise UserError('An image is expected, the path of a file or a NumPy array of (height, '
                        f'width, 3), uint8, in BGR; got {type(image).__name__}.{hint}')
    elif Path(image).is_dir() or is_video_file(image):
        raise UserError(f'{readable(image)} is a folder or a video, and stands among single '
                        'images: give it to the detector alone.')


def _check_array(image: np.ndarray) -> None:
    if image.dtype != np.uint8:
        hint = (' Divide values up to 65535 by 257.' if image.dtype == np.uint16 else
                ' Multiply values from 0 to 1 by 255.' if image.dtype.kind in 'fb' else '')
        raise UserError('An image as an array has values from 0 to 255, uint8, in BGR; got '
                        f'{image.dtype}.{hint} Then .astype(np.uint8).')
    if image.shape[2:] not in ((), (3, )) or image.ndim < 2 or not image.size:
        raise UserError('An image as an array has the shape (height, width, 3), or (height, width) '
                        f'if it is grey, and some pixels; got {image.shape}.')
