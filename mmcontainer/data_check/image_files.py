"""Whether the image files that annotations name are there, readable and of the stated size."""
import os
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image

from .annotations import Annotations
from .report import Report, counted, listed

# So many headers are read, spread over the data set: about a second on a local disk.
_HEADERS = 4000
# Above this share of headers the sizes of the whole file are wrong.
_MANY = 0.1
_ROUNDED = 0.01  # sizes may differ by so much, as those of copies made smaller do
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_ENDINGS = {'JPEG': b'\xff\xd9', 'PNG': b'IEND'}


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
    """Whether an image ends early. It is decoded only if it lacks the ending of its format."""
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


def _header(path: Path, is_turned: bool) -> Optional[tuple[int, int]]:
    """(height, width) of an image as the pipeline loads it; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = is_turned and image.getexif().get(0x112) in _TURNED
            if _is_cut_off(path, image):
                return None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return (width, height) if turned else (height, width)


def check_images(annotations: Annotations, folder: Path, report: Report,
                 is_turned: bool = True) -> None:
    """Check the image files of a data set.

    All have to be there and not empty. Of 4000 the header is read: it has to be that of an image,
    of the size that the annotations state. Pixels are not decoded, unless a file lacks the ending
    of its format.

    Args:
        annotations (Annotations): With names and sizes.
        folder (Path): What names are relative to.
        report (Report): Gets problems and notes.
        is_turned (bool): Whether the pipeline turns photographs upright, as their EXIF data says:
            OpenCV does, unless ``color_type`` of ``LoadImageFromFile`` forbids it.
    """
    paths = [folder / name.replace('\\', '/') for name in annotations.file_names]
    listing = _list_folders({path.parent for path in paths})
    missing = [path for path in paths if path.name not in listing[path.parent]]
    empty = [path for path in paths if listing[path.parent].get(path.name) == 0]
    for files, fate in ((missing, 'missing'), (empty, 'empty')):
        if files:
            report.problems.append(f'{counted(len(files), "image")} of {len(paths)} are {fate}: '
                                   f'{listed(files)}')
    if missing or empty:
        return
    step = max(1, len(paths) // _HEADERS)
    sample = range(0, len(paths), step)
    headers = {number: _header(paths[number], is_turned) for number in sample}
    broken = [paths[number] for number, sizes in headers.items() if sizes is None]
    if broken:
        report.problems.append(f'{counted(len(broken), "file")} of {len(headers)} examined are no '
                               f'readable images: {listed(broken)}')
        return
    _check_sizes(annotations.sizes, headers, paths, report)


def _check_sizes(stated: np.ndarray, headers: dict, paths: list[Path], report: Report) -> None:
    wrong = [number for number, size in headers.items() if np.isfinite(stated[number]).all()
             and (np.abs(stated[number] - size) > np.maximum(2, _ROUNDED * stated[number])).any()]
    if not wrong:
        return
    first = wrong[0]
    height, width = headers[first]
    stated_height, stated_width = (f'{value:g}' for value in stated[first])
    text = (f'{len(wrong)} of {counted(len(headers), "image")} examined have another size than the '
            f'annotations say: {paths[first]} is {width} wide and {height} high, {stated_width} '
            f'and {stated_height} are stated')
    if all(tuple(stated[number]) == headers[number][::-1] for number in wrong):
        text += (' (photographs that were annotated as they lie, before viewers turn them, are '
                 "read with color_type='color_ignore_orientation' of LoadImageFromFile)")
    if len(wrong) > _MANY * len(headers):
        report.problems.append(f'{text}. Boxes would lie in the wrong place: correct width and '
                               'height, or use the images that were annotated')
    else:
        report.notes.append(f'{text}.')
