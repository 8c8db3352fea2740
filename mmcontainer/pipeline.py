"""The test pipeline of a config, for image files that are in no data set."""
from typing import Any, Callable

import cv2
import numpy as np
from mmengine.dataset import Compose
from PIL import Image

from .errors import UserError
from .type_names import type_name

WIDE_GREY = ("grey with 16 or more bits, of which Pillow makes white all above 255: set "
             "imdecode_backend='cv2' in LoadImageFromFile, or convert to 8 bits")
_READS_NOTHING = 'The test pipeline of the config reads no image (LoadImageFromFile does).'


class ImageError(Exception):
    """One image cannot be worked on; its text says why. Others may be fine."""


def _loads_annotations(step: dict) -> bool:
    name = type_name(step['type'])
    return 'Load' in name and 'Annotations' in name


def tested_dataset(cfg):
    """Config of the (first) data set that is tested on, without its wrappers; None without."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    while dataset is not None and 'pipeline' not in dataset:
        dataset = dataset.get('dataset') or next(iter(dataset.get('datasets') or []), None)
    return dataset


def build_pipeline(cfg) -> list[Callable[[dict], Any]]:
    """Build the transforms of the test data set, without those that read annotations.

    Args:
        cfg (Config): Its default scope must have been set.

    Raises:
        UserError: If the config has no test pipeline.
    """
    dataset = tested_dataset(cfg)
    if dataset is None:
        raise UserError('The config has no test pipeline (test_dataloader.dataset.pipeline), which '
                        'says how images are read and resized for the network.')
    steps = [step for step in dataset['pipeline'] if not _loads_annotations(step)]
    return Compose(steps).transforms


def _is_wide_grey(path: str) -> bool:
    try:
        with Image.open(path) as image:
            return image.mode.startswith('I')
    except Exception:  # the loader says what is wrong with it
        return False


def decode(transforms: list, path: str) -> tuple[dict[str, Any], list]:
    """Run the transforms that read an image: those up to the first one that yields pixels.

    Args:
        transforms (list): See :func:`build_pipeline`.
        path (str): The file.

    Returns:
        tuple: What the transforms have gathered, with the pixels as ``img``, in BGR, of (H, W) or
        (H, W, C), turned or not as the loader treats EXIF's orientation; and the transforms left.

    Raises:
        ImageError: If the file cannot be read.
    """
    results = dict(img_path=path, img_id=0)
    for number, transform in enumerate(transforms, start=1):
        if getattr(transform, 'imdecode_backend', None) == 'pillow' and _is_wide_grey(path):
            raise ImageError(f'is {WIDE_GREY}')
        try:
            results = transform(results)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise OpenCV's, Pillow's and bare assertions
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ImageError(f'cannot be read as an image ({reason[0]})') from error
        if results is None:
            raise ImageError('cannot be read as an image')
        if results.get('img') is not None:
            return results, transforms[number:]
    raise UserError(_READS_NOTHING)


def take_pixels(transforms: list, image: np.ndarray) -> tuple[dict[str, Any], list]:
    """What :func:`decode` returns, for an image that has been decoded already.

    Args:
        transforms (list): See :func:`build_pipeline`.
        image (np.ndarray): (H, W, 3) in BGR, or (H, W); uint8. A copy of it gets the channels and
            the type of numbers that the loader of the pipeline would have read from a file.

    Raises:
        UserError: If the pipeline has no loader.
    """
    index = next((index for index, transform in enumerate(transforms)
                  if 'LoadImage' in type(transform).__name__), None)
    if index is None:
        raise UserError(_READS_NOTHING)
    loader = transforms[index]
    wanted = getattr(loader, 'color_type', 'color')
    if wanted.startswith('gray') and image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    elif wanted.startswith('color') and image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    image = image.astype(np.float32 if getattr(loader, 'to_float32', False) else np.uint8)
    size = image.shape[:2]
    results = dict(img=image, img_path=None, img_id=0, img_shape=size, ori_shape=size)
    return results, transforms[index + 1:]
