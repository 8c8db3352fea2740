"""Annotation files as arrays, read once per process and kept on the disk for the next."""
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree
from zipfile import BadZipFile

import numpy as np

from ..errors import UserError
from ..fileio import write_atomically
from .coco_file import parse_coco
from .masks import MISSING
from .report import counted, listed

# Smaller files are read faster than anybody notices.
_WORTH_KEEPING = 20 << 20
# Part of the name of what is kept: changes with what the fields mean.
_VERSION = 3


class Category(NamedTuple):
    """A category of a file."""
    id: int
    name: str


@dataclass
class Annotations:
    """Content of an annotation file with I images and N objects.

    Attributes:
        path (Path): The file.
        categories (tuple[Category, ...]): In the order of the file.
        file_names (list[str]): (I, ) relative to the folder of images.
        sizes (np.ndarray): (I, 2) heights and widths.
        image (np.ndarray): (N, ) index of the image of every object; -1 for one that is not there.
        category (np.ndarray): (N, ) category ids.
        boxes (np.ndarray): (N, 4) x, y, width, height in pixels.
        area (np.ndarray): (N, ) square pixels; those of the box where the file has none.
        is_ignored (np.ndarray): (N, ) marked as a crowd or to be ignored.
        masks (np.ndarray): (N, ) whether the segmentation can be used: a code of :mod:`masks`.
        is_code (np.ndarray): (N, ) whether the segmentation is a run-length code.
        problems, notes (list[str]): What is wrong with the file whatever reads it.
        repairs (list[str]): What :mod:`repair` can mend: 'area', 'iscrowd', 'id', 'file_name'.
    """
    path: Path
    categories: tuple
    file_names: list
    sizes: np.ndarray
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    is_ignored: np.ndarray
    masks: np.ndarray
    is_code: np.ndarray
    problems: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    repairs: list = field(default_factory=list)

    @property
    def is_object(self) -> np.ndarray:
        """(N, ) whether MMDetection takes it: on its image, at least 1 x 1, with an area."""
        if not len(self.sizes):
            return np.zeros(len(self.image), bool)
        height, width = self.sizes[self.image].T
        x, y, w, h = self.boxes.T
        inside = np.minimum(x + w, width) - np.maximum(x, 0) > 0
        inside &= np.minimum(y + h, height) - np.maximum(y, 0) > 0
        return inside & (w >= 1) & (h >= 1) & (self.area > 0) & (self.image >= 0)

    @property
    def instances(self) -> dict:
        """Number of objects by category id."""
        ids, counts = np.unique(self.category[self.is_object], return_counts=True)
        return dict(zip(ids.tolist(), counts.tolist()))


def read_annotations(path: Path) -> Annotations:
    """Read a COCO annotation file.

    Args:
        path (Path): JSON in COCO's layout.

    Raises:
        UserError: If it is none.
    """
    path = Path(path)
    stat = path.stat()
    return _read_once(path, stat.st_size, stat.st_mtime_ns)


def read_voc(path: Path, root: Path, config: dict) -> Annotations:
    """Read the XML files of a VOC data set.

    Args:
        path (Path): List of the names of images.
        root (Path): Folder of ``Annotations/`` and ``JPEGImages/``.
        config (dict): Config of the data set, which may give these two other names.
    """
    return _build(Path(path), parse_voc(Path(path), root, config))


@lru_cache(maxsize=16)
def _read_once(path: Path, size: int, changed: int) -> Annotations:
    if size < _WORTH_KEEPING:
        return _build(path, parse_coco(path))
    kept = _kept_file(path, size, changed)
    try:
        with np.load(kept, allow_pickle=False) as file:
            arrays = dict(file)
            return _build(path, {**json.loads(str(arrays.pop('texts'))), **arrays})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # not there, or a broken one
        pass
    annotations = _build(path, parse_coco(path))
    _keep(annotations, kept)
    return annotations


def _kept_file(path: Path, size: int, changed: int) -> Path:
    def digest(*what) -> str:
        return hashlib.sha256(repr(what).encode()).hexdigest()[:16]

    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base, 'mmcontainer', f'annotations-{digest(str(path.resolve()))}-'
                f'{digest(size, changed, _VERSION)}.npz')


def _build(path: Path, fields: dict) -> Annotations:
    categories = tuple(Category(*pair) for pair in fields.pop('categories'))
    return Annotations(path=path, categories=categories, **fields)


def _keep(annotations: Annotations, target: Path) -> None:
    fields = asdict(annotations)
    fields.pop('path')
    arrays = {key: value for key, value in fields.items() if isinstance(value, np.ndarray)}
    texts = json.dumps({key: value for key, value in fields.items() if key not in arrays})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, lambda file: np.savez(file, texts=np.array(texts), **arrays))
        for old in target.parent.glob(f'{target.stem.rpartition("-")[0]}-*.npz'):
            if old != target:  # of the same file, before it changed
                old.unlink()
    except OSError:  # a home that cannot be written only costs time
        pass


def parse_voc(path: Path, root: Path, config: dict) -> dict[str, Any]:
    """Read all XML files into the fields of :class:`Annotations`.

    Categories are the names that occur, numbered as they do.

    Args:
        path (Path): List of the names of images.
        root (Path): Folder of ``Annotations/`` and ``JPEGImages/``.
        config (dict): Config of the data set; ``ann_subdir`` and ``img_subdir`` rename these two.

    Raises:
        UserError: If the list is empty or no text.
    """
    try:
        names = path.read_text(encoding='utf-8').splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is no text in UTF-8; a list of the names of images is '
                        'expected.') from error
    if not names:
        raise UserError(f'{path} is empty; a list of the names of images is expected.')
    # MMDetection takes every line as it is for the name of a file.
    odd = [number for number, name in enumerate(names, start=1) if not name or name != name.strip()]
    if odd:
        raise UserError(f'{path} has lines that are blank, or have blanks around a name: '
                        f'{listed(odd)}. Remove them.')
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
    # Where no size is stated, MMDetection opens the image, and this check has to accept any box.
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
    name = item.find('name').text
    if not name:
        raise ValueError('an object without a name')
    label = labels.setdefault(name, len(labels))
    box = item.find('bndbox')
    x1, y1, x2, y2 = (float(box.find(key).text) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
    if not (np.isfinite([x1, y1, x2, y2]).all() and x2 > x1 and y2 > y1):
        raise ValueError(f'a box from {x1:g}, {y1:g} to {x2:g}, {y2:g}')
    difficult = item.find('difficult')
    return label, x1, y1, x2 - x1, y2 - y1, difficult is not None and int(difficult.text)
