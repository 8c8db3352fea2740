"""Reading the XML files of a VOC data set."""
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..errors import UserError
from .masks import MISSING
from .report import counted, listed


def parse_voc(path: Path, root: Path, config: dict) -> dict[str, Any]:
    """Read all XML files into the fields of :class:`...annotations.Annotations`.

    Categories are the names that occur, numbered as they do.

    Args:
        path (Path): List of the names of images.
        root (Path): Folder of ``Annotations/`` and ``JPEGImages/``.
        config (dict): Config of the data set; ``ann_subdir`` and ``img_subdir`` rename these two.

    Raises:
        UserError: If the list is empty or no text.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()
                 if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is no text in UTF-8; a list of the names of images is '
                        'expected.') from error
    if not names:
        raise UserError(f'{path} is empty; a list of the names of images is expected.')
    folder = root / config.get('ann_subdir', 'Annotations')
    labels, rows, sizes, missing, odd = {}, [], [], [], []
    for number, name in enumerate(names):
        size = (np.nan, np.nan)
        try:
            tree = ElementTree.parse(folder / f'{name}.xml').getroot()
            if tree.find('size') is not None:
                size = tuple(int(tree.find('size').find(key).text) for key in ('height', 'width'))
            rows += [(number, *_object(item, labels)) for item in tree.findall('object')]
        except FileNotFoundError:
            missing.append(f'{name}.xml')
        except ValueError as error:
            odd.append(f'{name}.xml ({error})')
        except (ElementTree.ParseError, AttributeError, TypeError, OSError):
            odd.append(f'{name}.xml')
        sizes.append(size)
    problems = [f'{counted(len(files), "file")} of {folder} {fate}: {listed(files)}'
                for files, fate in ((missing, 'missing'), (odd, 'cannot be used')) if files]
    table = np.array(rows, np.float64).reshape(-1, 7)
    if not problems and not len(table):
        problems.append('none of its XML files has an object')
    # Where the size is not stated, MMDetection opens the image: nothing can be said here.
    sizes = np.nan_to_num(np.array(sizes, np.float64), nan=np.inf)
    return dict(
        categories=[(number, name) for name, number in labels.items()], sizes=sizes,
        file_names=[f'{config.get("img_subdir", "JPEGImages")}/{name}.jpg' for name in names],
        image=table[:, 0].astype(np.int64),
        category=table[:, 1].astype(np.int64), boxes=table[:, 2:6], problems=problems,
        is_ignored=table[:, 6].astype(bool), area=table[:, 4] * table[:, 5],
        masks=np.full(len(table), MISSING), is_code=np.zeros(len(table), bool))


def _object(item: ElementTree.Element, labels: dict[str, int]) -> tuple:
    """Label, x, y, width, height, and whether it is difficult."""
    label = labels.setdefault(item.find('name').text, len(labels))
    box = item.find('bndbox')
    x1, y1, x2, y2 = (float(box.find(key).text) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
    if not (np.isfinite([x1, y1, x2, y2]).all() and x2 > x1 and y2 > y1):
        raise ValueError(f'a box from {x1:g}, {y1:g} to {x2:g}, {y2:g}')
    difficult = item.find('difficult')
    return label, x1, y1, x2 - x1, y2 - y1, difficult is not None and int(difficult.text)
