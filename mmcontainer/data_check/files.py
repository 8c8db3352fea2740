"""Checks that the files of a config exist, and that images are readable and of the stated size."""
import io
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Optional

import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..config_nodes import evaluators, join_path, loader_datasets
from ..errors import UserError
from ..pillow_limit import pillow_limit_lifted
from ..pipeline import WIDE_GREY
from ..type_names import type_name
from .annotations import Annotations
from .report import Report, counted, listed

# So many headers are read, spread over the data set: about a second on a local disk.
_HEADERS = 4000
# Above this share of headers the sizes of the whole file are wrong.
_MANY = 0.1
_ROUNDED = 0.01  # sizes may differ by so much, as those of copies made smaller do
_ORIENTATION = 0x112  # of EXIF
_TURNED = (5, 6, 7, 8)  # orientations that exchange height and width
_ENDINGS = {'JPEG': b'\xff\xd9', 'PNG': b'IEND'}
# MMPretrain's data sets that read one folder of images per class, unless there is a list of images;
# with the number of classes that must be there (0: any) where the config does not name them.
_FOLDER_PER_CLASS = {'ImageNet': 1000, 'CustomDataset': 0}
_HELP = """\
What you can do:
  - the data lies elsewhere: add  --data-root FOLDER  (in place of {roots})
"""
_HELP_COCO = """\
  - you have no data yet: COCO 2017 is at https://cocodataset.org/#download
  - you only want to see it work:  make demo  (it makes its own small data set)"""
_HELP_MAPS = """\
  - you have no data yet: ADE20K (ADEChallengeData2016) is at
    http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip
  - an image images/training/NAME.jpg has its map in annotations/training/NAME.png
  - you only want to see it work:  python -m mmcontainer.demo.shapes data/shapes --maps
    makes the small data set of configs/fpn/container_light_demo_shapes.py"""
_HELP_IMAGENET = """\
  - you have no data yet: ImageNet-1k (ILSVRC 2012) is at https://image-net.org/download.php
  - train/ and val/ hold one folder of images per class (n01440764/ ...). Images that all lie in one
    folder, as those of the official val archive, need a list beside: meta/val.txt (or train.txt),
    one line "FILE CLASS_NUMBER" per image
  - meta/train_10pct.txt and the like are made by  mmcontainer imagenet-subset
  - you have images of other classes: docs/imagenet.md says what to change in the config"""


class _Part(NamedTuple):
    """A file or folder that a config reads.

    Attributes:
        path (Path): Where it has to be.
        is_folder (bool): Whether it is a folder, which must not be empty.
        num_classes (int, optional): Folders, one per class, that this folder has to hold; 0 for any
            number but none, None where it need not hold folders.
    """
    path: Path
    is_folder: bool
    num_classes: Optional[int] = None

    def fault(self) -> str:
        """Say what is wrong with it, in a few words; an empty string if nothing is."""
        if not self.is_folder:
            return '' if self.path.is_file() else 'missing'
        if not self.path.is_dir():
            return 'missing'
        entries = list(self.path.iterdir())
        if not entries:
            return 'empty'
        found = sum(entry.is_dir() for entry in entries) if self.num_classes is not None else None
        if found is None or found and found == (self.num_classes or found):
            return ''
        return (f'{found} folders, {self.num_classes} expected: one per class'
                if self.num_classes else 'no folders in it: one per class expected')

    def __str__(self) -> str:
        return f'{self.path}{"/" if self.is_folder else ""}'


def _num_classes(leaf: dict) -> int:
    classes = (leaf.get('metainfo') or {}).get('classes')
    if classes is None:
        return _FOLDER_PER_CLASS[type_name(leaf.get('type'))]
    return len(classes) if isinstance(classes, (list, tuple)) else 0  # a file that lists them


def _image_folder_parts(leaf: dict, root: str) -> Iterator[_Part]:
    """Files of an ImageNet or CustomDataset, by the rules in their docstrings in MMPretrain."""
    split = leaf.get('split', '')
    ann_file = leaf.get('ann_file')
    if not ann_file and split and join_path(root, f'meta/{split}.txt').is_file():
        ann_file = f'meta/{split}.txt'
    if ann_file:
        yield _Part(join_path(root, ann_file), is_folder=False)
    prefix = leaf.get('data_prefix') or split
    prefix = prefix.get('img_path', '') if isinstance(prefix, dict) else prefix
    has_folders = not ann_file and leaf.get('with_label', True) and split != 'test'
    yield _Part(join_path(root, prefix), True, _num_classes(leaf) if has_folders else None)


def class_folder(leaf: dict) -> Optional[Path]:
    """The folder with one folder of images per class that a data set reads, None if it has none.

    Args:
        leaf (dict): Config of a data set, below any wrapper.
    """
    if type_name(leaf.get('type')) not in _FOLDER_PER_CLASS:
        return None
    parts = _image_folder_parts(leaf, leaf.get('data_root') or '')
    return next((part.path for part in parts if part.num_classes is not None), None)


def _annotated_parts(leaf: dict, root: str) -> Iterator[_Part]:
    if leaf.get('ann_file'):
        yield _Part(join_path(root, leaf['ann_file']), is_folder=False)
    prefix = leaf.get('data_prefix') or {}
    for folder in prefix.values() if isinstance(prefix, dict) else [prefix]:
        if isinstance(folder, str):
            yield _Part(join_path(root, folder), is_folder=True)


def _required_parts(cfg, splits: Sequence[str]) -> list[_Part]:
    """All annotation files and image folders on this machine's disk, each once."""
    found = []
    for leaf in loader_datasets(cfg, splits):
        if leaf.get('backend_args'):
            continue  # object storage: there is no folder to look at
        kind = type_name(leaf.get('type'))
        parts = _image_folder_parts if kind in _FOLDER_PER_CLASS else _annotated_parts
        found.extend(parts(leaf, leaf.get('data_root') or ''))
    for evaluator in evaluators(cfg, splits):
        if isinstance(evaluator.get('ann_file'), str) and not evaluator.get('backend_args'):
            found.append(_Part(join_path(evaluator['ann_file']), is_folder=False))
    return sorted({part.path: part for part in found}.values(), key=lambda part: part.path)


def check_data(cfg, splits: Sequence[str] = ('train', 'val')) -> None:
    """Check that the annotation files and image folders of a config exist.

    Args:
        cfg (Config): Config with ``*_dataloader`` and ``*_evaluator``.
        splits (Sequence[str]): Which of 'train', 'val' and 'test' will be used.

    Raises:
        UserError: One message that lists everything that is missing, and what to do.
    """
    required = _required_parts(cfg, splits)
    faults = [f'  {part}: {part.fault()}' for part in required if part.fault()]
    if not faults:
        return
    leaves = loader_datasets(cfg, splits)
    text = _HELP_COCO
    if any(type_name(leaf.get('type')) in _FOLDER_PER_CLASS for leaf in leaves):
        text = _HELP_IMAGENET
    elif any('seg_map_path' in (leaf.get('data_prefix') or {}) for leaf in leaves):
        text = _HELP_MAPS
    roots = ', '.join(sorted({leaf.get('data_root') or './' for leaf in leaves}))
    listing = '\n'.join(faults)
    raise UserError(
        f'The data of this config is not complete: {len(faults)} of {len(required)} parts are '
        f'missing (relative paths start in {Path.cwd()}).\n{listing}\n\n'
        f'{_HELP.format(roots=roots)}{text}')


def _list_folders(folders: set[Path]) -> dict[Path, dict[str, int]]:
    """{folder: {name of a file: its size}}; a listing is faster than asking for every file."""
    found = {}
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                found[folder] = {entry.name: entry.stat().st_size for entry in entries
                                 if entry.is_file()}
        except OSError:
            found[folder] = {}
    return found


def _is_cut_off(path: Path, image: Image.Image) -> bool:
    """Tell whether an image ends early; decode it only if it lacks the ending of its format."""
    ending = _ENDINGS.get(image.format)
    with open(path, 'rb') as file:
        file.seek(-min(64, path.stat().st_size), os.SEEK_END)
        if ending is None or ending in file.read():
            return False
    try:
        image.load()
    except (OSError, ValueError, SyntaxError):
        return True
    return False


class ImageHeader(NamedTuple):
    """What a file says of its image.

    Attributes:
        size (tuple[int, int]): Height and width as the pipeline loads it.
        mode (str): Pillow's name for the kind of pixels; empty if Pillow does not know the format.
    """
    size: tuple[int, int]
    mode: str


@cache
def _is_exchanged(kind: str, flag: str, backend: str) -> bool:
    """Whether a decoder gives a turned image of a format another side first than Pillow states.

    Which formats a library turns as EXIF says depends on its version, and Pillow states the size of
    a TIFF as it is after turning: so one is written and read.
    """
    exif, file = Image.Exif(), io.BytesIO()
    exif[_ORIENTATION] = _TURNED[0]
    try:
        Image.new('RGB', (16, 8)).save(file, kind, exif=exif)
    except (OSError, ValueError, KeyError):  # Pillow reads more formats than it writes
        return False
    width, height = Image.open(file).size
    return mmcv.imfrombytes(file.getvalue(), flag, backend=backend).shape[:2] == (width, height)


def read_header(path: Path, loader: dict) -> Optional[ImageHeader]:
    """Read what a file says of its image, without decoding it where Pillow knows the format.

    Args:
        path (Path): The file.
        loader (dict): Config of the ``LoadImageFromFile`` that will read it.

    Returns:
        ImageHeader | None: None if it is no image, or one that ends early.
    """
    flag, backend = loader.get('color_type', 'color'), loader.get('imdecode_backend') or 'cv2'
    try:
        with pillow_limit_lifted(), Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(_ORIENTATION) in _TURNED and _is_exchanged(
                    image.format, flag, backend):
                width, height = height, width
            return None if _is_cut_off(path, image) else ImageHeader((height, width), image.mode)
    except UnidentifiedImageError:
        try:  # TIFF of floats, say
            image = mmcv.imfrombytes(path.read_bytes(), flag, backend=backend)
            return ImageHeader(image.shape[:2], '')
        except Exception:  # decoders raise all kinds
            return None
    except (OSError, ValueError, SyntaxError):
        return None


def check_images(annotations: Annotations, folder: Path, report: Report,
                 loader: Optional[dict]) -> None:
    """Check the image files of a data set.

    All have to be there and not empty. Of 4000 the header is read: it has to be that of an image,
    of the size that the annotations state. Pixels are not decoded, unless a file lacks the ending
    of its format.

    Args:
        annotations (Annotations): With names and sizes.
        folder (Path): What names are relative to.
        report (Report): Gets problems and notes.
        loader (dict, optional): Config of the ``LoadImageFromFile`` that will read them. None if
            something else does, which may take any kind of file.
    """
    paths = [folder / name.replace('\\', '/') for name in annotations.file_names]
    listing = _list_folders({path.parent for path in paths})
    missing = [path for path in paths if path.name not in listing[path.parent]]
    empty = [path for path in paths if listing[path.parent].get(path.name) == 0]
    for files, fate in ((missing, 'missing'), (empty, 'empty')):
        if files:
            report.problems.append(f'{counted(len(files), "image")} of {len(paths)} are {fate}: '
                                   f'{listed(files)}')
    if missing or empty or loader is None:
        return
    step = max(1, len(paths) // _HEADERS)
    sample = range(0, len(paths), step)
    headers = {number: read_header(paths[number], loader) for number in sample}
    broken = [paths[number] for number, header in headers.items() if header is None]
    if broken:
        report.problems.append(f'{counted(len(broken), "file")} of {len(headers)} examined are no '
                               f'readable images: {listed(broken)}')
        return
    # Pillow makes white of all above 255.
    wide = [paths[number] for number, header in headers.items() if header.mode.startswith('I')]
    if wide and loader.get('imdecode_backend') == 'pillow':
        report.problems.append(f'{counted(len(wide), "image")} of {len(headers)} examined '
                               f'are {WIDE_GREY}: {listed(wide)}')
    sizes = {number: header.size for number, header in headers.items()}
    _check_sizes(annotations.sizes, sizes, paths, report)


def _check_sizes(stated: np.ndarray, sizes: dict, paths: list[Path], report: Report) -> None:
    wrong = [number for number, size in sizes.items() if np.isfinite(stated[number]).all()
             and (np.abs(stated[number] - size) > np.maximum(2, _ROUNDED * stated[number])).any()]
    if not wrong:
        return
    first = wrong[0]
    height, width = sizes[first]
    stated_height, stated_width = (f'{value:g}' for value in stated[first])
    text = (f'{len(wrong)} of {counted(len(sizes), "image")} examined have another size than the '
            f'annotations say: {paths[first]} is {width} wide and {height} high, {stated_width} '
            f'and {stated_height} are stated')
    if all(tuple(stated[number]) == sizes[number][::-1] for number in wrong):
        text += (' (photographs that were annotated as they lie, before viewers turn them, are '
                 "read with color_type='color_ignore_orientation' of LoadImageFromFile)")
    if len(wrong) > _MANY * len(sizes):
        report.problems.append(f'{text}. Boxes would lie in the wrong place: correct width and '
                               'height, or use the images that were annotated')
    else:
        report.notes.append(f'{text}.')
