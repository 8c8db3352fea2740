"""Reading a COCO annotation file, and what can be wrong with it whatever reads it."""
import json
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.errors import UserError
from .report import counted, listed

_PARTS = ('images', 'annotations', 'categories')
# Coordinates of polygons further out than this many image sizes crash pycocotools.
_FAR = 10
# Above this share of objects a flaw is one of the whole file, not of single objects.
_MOST = 0.5


def parse_coco(path: Path) -> dict[str, Any]:
    """Read a file into the fields of :class:`mmcontainer.data_check.annotations.Annotations`.

    Raises:
        UserError: If it is no JSON, or JSON of another kind.
    """
    content = _load(path)
    images, annotations, categories = (content[part] for part in _PARTS)
    problems, notes = _flaws_of_images(images), []
    index = {image.get('id'): number for number, image in enumerate(images)}
    of_image = np.array([index.get(item.get('image_id'), -1) for item in annotations], np.int64)
    boxes, flaws = _boxes(annotations)
    problems += flaws
    sizes = np.array([[_number(image, 'height'), _number(image, 'width')] for image in images],
                     np.float64).reshape(-1, 2)
    if not problems:
        problems, notes = _flaws_of_boxes(boxes, of_image, sizes)
        problems += _flaws_of_masks(annotations, of_image, sizes)
    ids = [item.get('id') for item in annotations]
    if len(set(map(str, ids))) < len(ids):
        problems.append(f'ids of annotations occur twice: {listed(_twice(ids))}')
    return dict(
        categories=_categories(categories, path), sizes=sizes, image=of_image, boxes=boxes,
        file_names=[str(image.get('file_name') or '') for image in images],
        category=np.array([_as_id(item.get('category_id')) for item in annotations], np.int64),
        is_ignored=np.array([bool(item.get('iscrowd') or item.get('ignore'))
                             for item in annotations], bool),
        has_mask=np.array([bool(item.get('segmentation')) for item in annotations], bool),
        problems=problems, notes=notes, repairs=_repairs(images, annotations))


def _load(path: Path) -> dict[str, list]:
    data = path.read_bytes()
    kind = 'a COCO annotation file (JSON with images, annotations and categories) is expected'
    if not data.strip():
        raise UserError(f'{path} is empty; {kind}.')
    if data[:2] in (b'\xff\xfe', b'\xfe\xff') or data[:3] == b'\xef\xbb\xbf':
        code = 'utf-8-sig' if data[0] == 0xef else 'utf-16'
        raise UserError(
            f'{path} begins with a byte order mark ({code}), which JSON must not have and '
            'MMDetection cannot read. Save it as UTF-8 without:\n  python -c "import pathlib; p = '
            f"pathlib.Path('{path}'); p.write_text(p.read_text('{code}'), 'utf-8')\"")
    try:
        content = json.loads(data)
    except ValueError as error:
        found = 'a web page or XML' if data.lstrip()[:1] == b'<' else f'no whole JSON ({error})'
        raise UserError(f'{path} is {found}; {kind}. If it was copied or downloaded, it may be '
                        'incomplete.') from error
    if isinstance(content, list):
        is_result = content and isinstance(content[0], dict) and 'score' in content[0]
        found = 'results of a detector' if is_result else 'a list'
        raise UserError(f'{path} holds {found}; {kind}.')
    flawed = [part for part in _PARTS if not isinstance(content, dict)
              or not isinstance(content.get(part), list)
              or not all(isinstance(item, dict) for item in content[part])]
    if flawed:
        found = listed(content) if isinstance(content, dict) else type(content).__name__
        raise UserError(f'{path} has no list of entries as {listed(flawed)}; {kind}. It has: '
                        f'{found}.')
    return content


def _number(entry: dict, key: str) -> float:
    value = entry.get(key)
    return value if isinstance(value, Real) and not isinstance(value, bool) else np.nan


def _as_id(value) -> int:
    return value if isinstance(value, int) else -1


def _twice(values: Sequence) -> list:
    return [value for value, number in Counter(map(str, values)).items() if number > 1]


def _categories(categories: Sequence[dict], path: Path) -> list[tuple[int, str]]:
    odd = [category for category in categories if not isinstance(category.get('id'), int)
           or not isinstance(category.get('name'), str)]
    if odd:
        raise UserError(f'{path}: categories need an integer id and a name; found {listed(odd)}.')
    return [(category['id'], category['name']) for category in categories]


def _flaws_of_images(images: Sequence[dict]) -> list[str]:
    if not images:
        return ['it has no images']
    flaws, ids = [], [image.get('id') for image in images]
    odd = [number for number in ids if not isinstance(number, int)]
    if odd:
        flaws.append(f'ids of images are not integers: {listed(map(repr, odd))}')
    twice = _twice(ids)
    if twice:
        flaws.append(f'{counted(len(twice), "id")} of images occur twice, so objects cannot be told'
                     f' apart: {listed(twice)}')
    unnamed = sum(not image.get('file_name') for image in images)
    if unnamed:
        flaws.append(f'{counted(unnamed, "image")} without file_name')
    unsized = [image.get('file_name') for image in images
               if not (_number(image, 'height') > 0 and _number(image, 'width') > 0)]
    if unsized:
        flaws.append(f'{counted(len(unsized), "image")} without a positive height and width: '
                     f'{listed(unsized)}')
    return flaws


def _boxes(annotations: Sequence[dict]) -> tuple[np.ndarray, list[str]]:
    """(N, 4) boxes, and what is wrong with their form."""
    found = [item.get('bbox') for item in annotations]
    try:
        boxes = np.array(found, np.float64).reshape(-1, 4)
        if len(boxes) == len(found) and not any(isinstance(value, str) for value in chain(*found)):
            bad = np.flatnonzero(~np.isfinite(boxes).all(1))
            flaw = [f'{counted(len(bad), "box")} with NaN or infinity, of the annotations '
                    f'{listed(annotations[i].get("id") for i in bad)}'] if len(bad) else []
            return boxes, flaw
    except (TypeError, ValueError):
        pass
    bad = [item.get('id') for item in annotations if not (
        isinstance(item.get('bbox'), list) and len(item['bbox']) == 4
        and all(isinstance(value, Real) for value in item['bbox']))]
    return np.zeros((len(found), 4)), [
        f'{counted(len(bad), "annotation")} without a bbox of four numbers [x, y, width, height]: '
        f'{listed(bad)}']


def _flaws_of_boxes(boxes: np.ndarray, image: np.ndarray,
                    sizes: np.ndarray) -> tuple[list[str], list[str]]:
    """Problems and notes about where boxes lie."""
    total = len(boxes)
    if not total:
        return ['it has no objects (annotations is empty)'], []
    problems, notes = [], []
    lost = image < 0
    if lost.any():
        notes.append(f'{counted(int(lost.sum()), "object")} of images that are not in the file are '
                     'dropped.')
    boxes, image = boxes[~lost], image[~lost]
    x, y, w, h = boxes.T
    if len(boxes) and boxes.max() <= 1 and (w > 0).any():
        problems.append('all boxes lie between 0 and 1: they are fractions of the image, and '
                        'pixels [x, y, width, height] are expected')
        return problems, notes
    flat = (w < 1) | (h < 1)
    if flat.all():
        problems.append(f'none of {counted(total, "box")} is at least 1 x 1 pixel; [x, y, width, '
                        'height] in pixels is expected')
        return problems, notes
    if flat.any():
        notes.append(f'{counted(int(flat.sum()), "box")} of less than 1 x 1 pixel are dropped.')
    height, width = sizes[image].T
    out = (x < -1) | (y < -1) | (x + w > width + 1) | (y + h > height + 1)
    if out.mean() > _MOST:
        problems.append(
            f'{int(out.sum())} of {counted(total, "box")} stick out of their images: [x, y, width, '
            'height] in pixels of the images as they are is expected. Are the boxes [x1, y1, x2, '
            'y2], or are height and width of images exchanged or those of other images?')
    elif out.any():
        notes.append(f'{counted(int(out.sum()), "box")} stick out of their images.')
    return problems, notes


def _flaws_of_masks(annotations: Sequence[dict], image: np.ndarray,
                    sizes: np.ndarray) -> list[str]:
    """Segmentations that pycocotools cannot read, or would crash on."""
    polygons, owners, bad_codes = [], [], []
    for number, item in enumerate(annotations):
        masks = item.get('segmentation')
        if isinstance(masks, dict):
            if image[number] >= 0 and not _is_code_of(masks, sizes[image[number]]):
                bad_codes.append(item.get('id'))
        elif isinstance(masks, list):
            polygons += masks
            owners += [number] * len(masks)
        elif masks:
            bad_codes.append(item.get('id'))
    flaws = [f'{counted(len(bad_codes), "mask")} that are no run-length code of the size of the '
             f'image, of the annotations {listed(bad_codes)}'] if bad_codes else []
    bad = [owners[i] for i in _bad_polygons(polygons, sizes)]
    if bad:
        flaws.append(f'{counted(len(bad), "polygon")} with NaN, infinity, words or coordinates far '
                     f'outside of any image, which would crash pycocotools, of the annotations '
                     f'{listed(annotations[i].get("id") for i in dict.fromkeys(bad))}')
    return flaws


def _bad_polygons(polygons: Sequence, sizes: np.ndarray) -> np.ndarray:
    """Indices of polygons that are no numbers, or far from the image."""
    if not polygons:
        return np.zeros(0, np.int64)
    limit = _FAR * max(float(sizes.max()), 1.)
    try:
        lengths = np.array([len(polygon) for polygon in polygons])
        values = np.fromiter(chain.from_iterable(polygons), np.float64, lengths.sum())
    except (TypeError, ValueError):
        return np.array([i for i, polygon in enumerate(polygons) if not isinstance(polygon, list)
                         or not all(isinstance(value, Real) for value in polygon)], np.int64)
    far = ~(np.abs(values) <= limit)  # NaN, too
    return np.unique(np.repeat(np.arange(len(polygons)), lengths)[far])


def _is_code_of(code: dict, size: np.ndarray) -> bool:
    """Whether a run-length code is one of an image of this height and width."""
    counts = code.get('counts')
    if list(map(float, size)) != list(code.get('size') or []):
        return False
    if isinstance(counts, list):
        return all(isinstance(value, int) and value >= 0 for value in counts) and (
            sum(counts) == size[0] * size[1])
    return isinstance(counts, str) and all(48 <= ord(char) <= 111 for char in counts)


def _repairs(images: Sequence[dict], annotations: Sequence[dict]) -> list[str]:
    missing = [key for key in ('area', 'iscrowd') if any(key not in item for item in annotations)]
    slashes = any('\\' in str(image.get('file_name')) for image in images)
    return missing + ['file_name'] * slashes
