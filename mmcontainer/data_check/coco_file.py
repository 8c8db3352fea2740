"""Reading a COCO annotation file, and mistakes that matter to every reader of it."""
import contextlib
import gc
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..errors import UserError
from .masks import check_masks
from .report import counted, listed

_PARTS = ('images', 'annotations', 'categories')
# Above this share of objects a flaw is one of the whole file, not of single objects.
_MOST = 0.5
_FLAGS = {int, bool, float, type(None)}


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking through millions of new objects, over and over."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@_uncollected()
def parse_coco(path: Path) -> dict[str, Any]:
    """Read a file into the fields of :class:`mmcontainer.data_check.annotations.Annotations`.

    Raises:
        UserError: If it is no JSON, or JSON of another kind.
    """
    content = _load(path)
    images, annotations, categories = (content.get(part, []) for part in _PARTS)
    pairs = _categories(categories, path)
    problems, notes = _flaws_of_images(images), []
    index = {_as_id(image.get('id')): number for number, image in enumerate(images)}
    index.pop(None, None)
    of_image = np.array([index.get(_as_id(item.get('image_id')), -1) for item in annotations],
                        np.int64)
    category = [_as_id(item.get('category_id')) for item in annotations]
    problems += _flaws_of_links(annotations, category, {number for number, _ in pairs})
    boxes, flaws = _boxes(annotations)
    problems += flaws
    sizes = np.array([[_number(image, 'height'), _number(image, 'width')] for image in images],
                     np.float64).reshape(-1, 2)
    if not problems and annotations:
        problems, notes = _flaws_of_boxes(boxes, of_image, sizes)
        for text, is_problem in _flaws_of_copies(images, of_image, category, boxes):
            (problems if is_problem else notes).append(text)
    of_object = sizes[of_image] if images else np.zeros((len(annotations), 2))
    segmentations = [item.get('segmentation') for item in annotations]
    area, is_filled = fill_in_areas(annotations, boxes)
    return dict(
        categories=pairs, sizes=sizes, image=of_image, boxes=boxes, area=area,
        file_names=[str(image.get('file_name') or '') for image in images],
        category=np.array([-1 if number is None else number for number in category], np.int64),
        is_ignored=np.array([bool(item.get('iscrowd') or item.get('ignore'))
                             for item in annotations], bool),
        masks=check_masks(segmentations, *of_object.T),
        is_code=np.array([isinstance(masks, dict) for masks in segmentations], bool),
        problems=problems, notes=notes,
        repairs=['area'] * bool(is_filled.any()) + _repairs(images, annotations))


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
    except RecursionError as error:
        raise UserError(f'{path} is nested too deeply; {kind}.') from error
    except ValueError as error:
        found = 'a web page or XML' if data.lstrip()[:1] == b'<' else f'no whole JSON ({error})'
        raise UserError(f'{path} is {found}; {kind}. If it was copied or downloaded, it may be '
                        'incomplete.') from error
    if isinstance(content, list):
        is_result = content and isinstance(content[0], dict) and 'score' in content[0]
        found = 'results of a detector' if is_result else 'a list'
        raise UserError(f'{path} holds {found}; {kind}.')
    if isinstance(content, dict) and 'images' in content and 'categories' in content:
        content.setdefault('annotations', [])  # images of a test set whose objects are secret
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


def _as_id(value) -> Optional[int]:
    """A whole number, which some programs write as 1.0; None for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return int(value) if is_number and abs(value) < 2**63 and value == int(value) else None


def _twice(values: Sequence) -> list:
    return [value for value, number in Counter(map(str, values)).items() if number > 1]


def _categories(categories: Sequence[dict], path: Path) -> list[tuple[int, str]]:
    odd = [category for category in categories if _as_id(category.get('id')) is None
           or not isinstance(category.get('name'), str)]
    if odd:
        raise UserError(f'{path}: categories need an integer id and a name; found {listed(odd)}.')
    return [(_as_id(category['id']), category['name']) for category in categories]


def _flaws_of_images(images: Sequence[dict]) -> list[str]:
    if not images:
        return ['it has no images']
    flaws, ids = [], [image.get('id') for image in images]
    odd = [number for number in ids if _as_id(number) is None]
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


def _flaws_of_links(annotations: Sequence[dict], category: Sequence[Optional[int]],
                    known: set[int]) -> list[str]:
    """Mistakes in image_id, category_id and iscrowd of objects."""
    flaws = []
    odd = [repr(item.get('image_id')) for item in annotations
           if _as_id(item.get('image_id')) is None]
    if odd:
        flaws.append(f'image_id of {counted(len(odd), "object")} is no integer: {listed(odd)}')
    odd = {repr(item.get('iscrowd')) for item in annotations
           if type(item.get('iscrowd')) not in _FLAGS or item.get('iscrowd') not in (None, 0, 1)}
    if odd:
        flaws.append(f'iscrowd of objects has to be 0 or 1, not {listed(sorted(odd))}')
    odd = [repr(item.get('category_id')) for item, number in zip(annotations, category)
           if number is None]
    if odd:
        flaws.append(f'category_id of {counted(len(odd), "object")} is no integer: {listed(odd)}')
    unknown = Counter(number for number in category if number is not None and number not in known)
    if unknown:
        flaws.append(
            f'category_id of {counted(sum(unknown.values()), "object")} is {listed(unknown)}, but '
            f'the categories are {listed(sorted(known))} (numbers from 0 in one place and from 1 '
            'in the other would shift every class)')
    return flaws


def _flaws_of_copies(images: Sequence[dict], of_image: np.ndarray, category: Sequence[int],
                     boxes: np.ndarray) -> Iterator[tuple[str, bool]]:
    """Texts about images that are listed more than once, and whether they are problems."""
    names = [image['file_name'].replace('\\', '/') for image in images]
    copies = {name: {} for name in _twice(names)}
    for number, name in enumerate(names):
        if name in copies:
            copies[name][number] = set()
    for number, label, box in zip(of_image.tolist(), category, boxes.tolist()):
        if number >= 0 and names[number] in copies:
            copies[names[number]][number].add((label, *box))
    # A program that repeats images of rare classes repeats their objects, too.
    differing = [name for name, objects in copies.items()
                 if len(set(map(frozenset, filter(None, objects.values())))) > 1]
    if differing:
        yield ('listed more than once with different objects: '
               f'{counted(len(differing), "image")}, so that those of one entry would be '
               'background in the other: give all objects of an image one image_id: '
               f'{listed(differing)}'), True
    elif copies:
        yield f'listed more than once: {counted(len(copies), "image")}: {listed(copies)}.', False


def fill_in_areas(annotations: Sequence[dict], boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, ) areas of objects, and which of them are those of the boxes because they were missing.

    Some programs write 0 instead of nothing, and MMDetection drops objects without an area.

    Args:
        annotations (Sequence[dict]): N objects.
        boxes (np.ndarray): (N, 4).
    """
    area = np.array([_number(item, 'area') for item in annotations], np.float64)
    is_missing = ~np.isfinite(area) | (area <= 0) & (boxes[:, 2:] >= 1).all(1)
    return np.where(is_missing, boxes[:, 2] * boxes[:, 3], area), is_missing


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
    total, problems, notes = len(boxes), [], []
    negative = (boxes[:, 2:] < 0).any(1)
    if negative.any():
        problems.append(f'{int(negative.sum())} of {counted(total, "box")} have a negative width '
                        'or height; [x, y, width, height] is expected')
        return problems, notes
    lost = image < 0
    if lost.all():
        problems.append(f'none of {counted(total, "object")} belongs to an image that is in the '
                        'file: are the images those of another split?')
        return problems, notes
    if lost.any():
        notes.append(f'dropped: {counted(int(lost.sum()), "object")} of images that are not in the '
                     'file.')
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
        notes.append(f'dropped: {counted(int(flat.sum()), "box")} of less than 1 x 1 pixel.')
    height, width = sizes[image].T
    out = (x < -1) | (y < -1) | (x + w > width + 1) | (y + h > height + 1)
    if out.mean() > _MOST:
        problems.append(
            f'{int(out.sum())} of {counted(total, "box")} stick out of their images: [x, y, width, '
            'height] in pixels of the images as they are is expected. Are the boxes [x1, y1, x2, '
            'y2], or are height and width of images exchanged or those of other images?')
    elif out.any():
        notes.append(f'outside of the image in part: {counted(int(out.sum()), "box")}.')
    return problems, notes


def _repairs(images: Sequence[dict], annotations: Sequence[dict]) -> list[str]:
    ids = [item.get('id') for item in annotations]
    # COCO's evaluation stores which object was found as its id, in floats, and takes 0 for "none".
    right = all(type(number) is int and 0 < number < 2**53 for number in ids)
    slashes = any('\\' in str(image.get('file_name')) for image in images)
    found = dict(
        iscrowd=any(item.get('iscrowd') is None for item in annotations),
        id=not right or len(set(ids)) < len(ids), file_name=slashes)
    return [name for name, is_needed in found.items() if is_needed]
