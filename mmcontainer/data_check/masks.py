"""A check that segmentations can become masks; pycocotools crashes on some that cannot."""
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

# Kinds of segmentations, in the array that check_masks returns.
USABLE, MISSING, TOO_FEW_POINTS, FAR_AWAY, WRONG_SIZE, BROKEN = range(6)
MEANINGS = {
    MISSING: 'no segmentation',
    TOO_FEW_POINTS: 'polygons of fewer than three points, or with an odd number of coordinates',
    FAR_AWAY: 'polygons with coordinates that are infinite, not a number or beyond 100000 pixels',
    WRONG_SIZE: 'RLE masks of another size than their image',
    BROKEN: 'segmentations that are neither polygons nor RLE masks that cover their image',
}
# pycocotools allocates memory for every pixel along an edge, so that 1e9 ends in a segmentation
# fault. No image is as wide as this.
_FARTHEST = 1e5
_NUMBERS = {int, float}


def _flat(parts: Sequence[list]) -> np.ndarray:
    """Coordinates of many polygons as one array; numbers too large become infinite."""
    try:
        return np.fromiter(chain.from_iterable(parts), dtype=np.float64)
    except OverflowError:
        return np.array([float(str(value)) for value in chain.from_iterable(parts)])


def _check_polygons(values: list[list]) -> np.ndarray:
    """Codes of segmentations that are non-empty lists."""
    codes = np.zeros(len(values), dtype=np.int8)
    counts = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    owner = np.repeat(np.arange(len(values)), counts)
    parts = list(chain.from_iterable(values))
    is_list = np.fromiter((type(part) is list for part in parts), bool, count=len(parts))
    codes[owner[~is_list]] = BROKEN
    parts = [part if good else [] for part, good in zip(parts, is_list)]
    if not set(map(type, chain.from_iterable(parts))) <= _NUMBERS:
        is_number = [set(map(type, part)) <= _NUMBERS for part in parts]
        codes[owner[~np.array(is_number)]] = BROKEN
        parts = [part if good else [] for part, good in zip(parts, is_number)]
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    short = owner[(lengths < 6) | (lengths % 2 == 1)]
    codes[short] = np.maximum(codes[short], TOO_FEW_POINTS)
    flat = _flat(parts)
    with np.errstate(invalid='ignore'):
        far = np.repeat(owner, lengths)[~(np.abs(flat) <= _FARTHEST)]
    codes[far] = np.maximum(codes[far], FAR_AWAY)
    return codes


def _compressed_total(text: str) -> int:
    """Pixels that a compressed RLE covers; -1 if it is broken.

    COCO writes each run as groups of five bits, the sign in the last; from the fourth run on it is
    the difference to the run before the last one.
    """
    codes = np.frombuffer(text.encode('ascii', 'replace'), dtype=np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return -1
    starts = np.concatenate([[0], np.flatnonzero(codes[:-1] & 32 == 0) + 1])
    place = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    if place.max() > 6:
        return -1
    value = np.add.reduceat((codes & 31) << (5 * place), starts)
    ends = np.append(starts[1:], len(codes)) - 1
    runs = value - np.where(codes[ends] & 16, 1 << (5 * (place[ends] + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return int(runs.sum()) if runs.min() >= 0 else -1


def _check_rle(value: dict, height: float, width: float) -> int:
    size, counts = value.get('size'), value.get('counts')
    if type(size) is not list or len(size) != 2 or not set(map(type, size)) <= _NUMBERS:
        return BROKEN
    if size != [height, width]:
        return WRONG_SIZE
    if isinstance(counts, str):
        total = _compressed_total(counts)
    elif type(counts) is list and set(map(type, counts)) == {int} and min(counts) >= 0:
        total = sum(counts)
    else:
        return BROKEN
    return USABLE if total == height * width else BROKEN


def check_masks(values: Sequence[Any], heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Check segmentations.

    Args:
        values (Sequence): ``segmentation`` of N objects, None where there is none.
        heights (ndarray): (N, ) heights of their images in pixels.
        widths (ndarray): (N, ) widths.

    Returns:
        ndarray: (N, ) int8, one of the codes above.
    """
    kinds = list(map(type, values))
    codes = np.full(len(values), BROKEN, dtype=np.int8)
    codes[[index for index, value in enumerate(values)
           if value is None or value == [] or value == {}]] = MISSING
    polygons = [index for index, kind in enumerate(kinds) if kind is list and values[index]]
    codes[polygons] = _check_polygons([values[index] for index in polygons])
    for index, kind in enumerate(kinds):
        if kind is dict and values[index]:
            codes[index] = _check_rle(values[index], heights[index], widths[index])
    return codes
