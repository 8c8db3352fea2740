"""Segmentation maps of the demo data set, painted from the masks of its annotations.

Layout, beside what ``generate.py`` writes::

    OUT/maps/train/000001.png ...     grey PNG, values 0 (background) and 1 to 4 (the classes)
    OUT/maps/val/000001.png ...
"""
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Union

import cv2
import numpy as np
from pycocotools import mask as rle

from .generate import SPLITS
from .scenes import CLASSES

#: Names of the values of a map.
MAP_CLASSES = ('background', *CLASSES)


def _paint(annotations: dict, folder: Path) -> None:
    """Write the maps of one annotation file; its masks do not overlap."""
    objects = {}
    for entry in annotations['annotations']:
        objects.setdefault(entry['image_id'], []).append(entry)
    for image in annotations['images']:
        values = np.zeros((image['height'], image['width']), np.uint8)
        for entry in objects.get(image['id'], []):
            values[rle.decode(entry['segmentation']).astype(bool)] = entry['category_id']
        done, data = cv2.imencode('.png', values)
        if not done:
            raise OSError('OpenCV could not encode a PNG picture')
        (folder / image['file_name']).with_suffix('.png').write_bytes(data.tobytes())


def write_maps(root: Union[str, Path]) -> bool:
    """Add the segmentation maps to a generated data set, all of them or none.

    Args:
        root: Folder that :func:`generate_shapes` made.

    Returns:
        True if files were written, False if they were there.

    Raises:
        FileNotFoundError: If there is no generated data set in ``root``.
        FileExistsError: If ``root/maps`` holds something else.
    """
    root = Path(root)
    read = {}
    for split in SPLITS:
        path = root / 'annotations' / f'instances_{split}.json'
        if not path.is_file():
            raise FileNotFoundError(f'{root} holds no generated data set: {path} is missing. Make '
                                    'it with python -m mmcontainer.demo.shapes')
        read[split] = json.loads(path.read_text(encoding='utf-8'))
    target = root / 'maps'
    if target.exists():
        paths = [(target / split / image['file_name']).with_suffix('.png')
                 for split in SPLITS for image in read[split]['images']]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise FileExistsError(f'{target} exists, and is not complete: {missing[0]} is missing. '
                                  'Move it away, or remove it')
        return False
    temporary = Path(tempfile.mkdtemp(prefix='.maps.tmp-', dir=root))
    try:
        for split in SPLITS:
            (temporary / 'new' / split).mkdir(parents=True)
            _paint(read[split], temporary / 'new' / split)
        os.replace(temporary / 'new', target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True
