"""Scenes of the demo dataset: where the shapes lie, what is visible of them, how they look.

A scene is planned first and painted afterwards. The plan holds only geometry, so that an instance
of which too little would remain visible can be dropped *before* anything is painted: every shape a
picture shows has its annotation, and every annotation can be seen.

All random numbers come from ``numpy.random.RandomState``, whose streams NumPy has frozen (NEP 19);
those of the newer ``Generator`` may change with a NumPy release and with them the dataset.
"""
from dataclasses import dataclass

import cv2
import numpy as np

#: Class names, in the order of their category ids (1-based in the COCO files).
CLASSES = ('circle', 'square', 'triangle', 'ring')

_SUPERSAMPLE = 4  # outlines are rasterised this much finer and averaged: anti-aliased edges
_MIN_VISIBLE_FRACTION = 0.4  # of the whole shape, the part outside of the picture included
_MIN_VISIBLE_PIXELS = 24
_SHAPES_PER_IMAGE = (2, 5)  # inclusive
_RADIUS_RANGE = (0.1, 0.27)  # of the image side, drawn log-uniformly
_MAX_TURN = np.pi / 6  # rotation away from the upright outline, either way
_MIN_CONTRAST = 110  # Euclidean distance of mean colours, of 441 possible


@dataclass(frozen=True)
class PlacedShape:
    """One shape of a scene.

    Attributes:
        label: Index into :data:`CLASSES`.
        alpha: (H, W) uint8, coverage of each pixel by the whole shape, 255 = inside.
        mask: (H, W) bool, the pixels that belong to the instance after occlusion.
    """
    label: int
    alpha: np.ndarray
    mask: np.ndarray


def _regular_polygon(num_corners: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(num_corners) / num_corners - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


# Outlines of circumradius about 1. Several contours combine by the even-odd rule (a ring's hole).
_OUTLINES = {
    'circle': [_regular_polygon(64)],
    'square': [np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])],
    'triangle': [_regular_polygon(3)],
    'ring': [_regular_polygon(64), 0.55 * _regular_polygon(64)],
}


def _place_outline(rng: np.random.RandomState, name: str, size: int) -> list[np.ndarray]:
    """Outline of class ``name``, rotated, scaled and shifted at random, in pixel coordinates."""
    low, high = np.log(_RADIUS_RANGE)
    radius = size * np.exp(rng.uniform(low, high))
    stretch = np.exp(rng.uniform(-0.15, 0.15))  # ratio of the two axes: at most 1.35
    axis, turn = rng.uniform(0, np.pi), rng.uniform(-_MAX_TURN, _MAX_TURN)
    centre = rng.uniform(0, size, 2)  # the centre is inside, the outline may reach out

    def rotation(a):
        return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])

    stretching = rotation(axis) @ np.diag([stretch, 1 / stretch]) @ rotation(-axis)
    matrix = radius * stretching @ rotation(turn)
    return [contour @ matrix.T + centre for contour in _OUTLINES[name]]


def _coverage(contours: list[np.ndarray], size: int) -> np.ndarray:
    """Rasterise contours (pixel coordinates) to a (size, size) uint8 coverage map."""
    canvas = np.zeros((size * _SUPERSAMPLE, size * _SUPERSAMPLE), np.uint8)
    points = [np.round(c * _SUPERSAMPLE).astype(np.int32) for c in contours]
    cv2.fillPoly(canvas, points, 255)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


def _visible_masks(coverages: list[np.ndarray]) -> list[np.ndarray]:
    """Masks after occlusion; the list runs from the backmost shape to the frontmost."""
    masks = []
    hidden = np.zeros(coverages[0].shape, bool) if coverages else None
    for coverage in reversed(coverages):
        inside = coverage >= 128
        masks.append(inside & ~hidden)
        hidden |= inside
    return masks[::-1]


def plan_scene(rng: np.random.RandomState, size: int) -> list[PlacedShape]:
    """Draw the geometry of a scene.

    Args:
        rng: Source of all randomness.
        size: Side of the square picture in pixels.

    Returns:
        The instances from back to front, at least one. Their masks are pairwise disjoint; of each,
        at least 24 pixels and 40% of the whole shape are visible.
    """
    while True:
        shapes = []  # (label, coverage, area of the whole shape in pixels), back to front
        for _ in range(rng.randint(_SHAPES_PER_IMAGE[0], _SHAPES_PER_IMAGE[1] + 1)):
            label = rng.randint(len(CLASSES))
            contours = _place_outline(rng, CLASSES[label], size)
            areas = [cv2.contourArea(c.astype(np.float32)) for c in contours]
            shapes.append((label, _coverage(contours, size), areas[0] - sum(areas[1:])))
        while shapes:
            masks = _visible_masks([coverage for _, coverage, _ in shapes])
            pixels = np.array([mask.sum() for mask in masks])
            fractions = pixels / np.array([area for _, _, area in shapes])
            fractions[pixels < _MIN_VISIBLE_PIXELS] = 0
            worst = int(fractions.argmin())
            if fractions[worst] >= _MIN_VISIBLE_FRACTION:
                return [PlacedShape(label, coverage, mask)
                        for (label, coverage, _), mask in zip(shapes, masks)]
            # One at a time: without it, those below it may be visible enough again.
            del shapes[worst]


def _random_colours(rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Two BGR colours that differ moderately, the ends of one texture; few are saturated."""
    first = rng.uniform(30, 225) + rng.uniform(-1, 1, 3) * rng.uniform(10, 90)
    second = first + rng.uniform(-35, 35) + rng.uniform(-15, 15, 3)
    return np.clip(first, 0, 255), np.clip(second, 0, 255)


def _cloud(rng: np.random.RandomState, size: int) -> np.ndarray:
    """(size, size) noise in [0, 1] with power at all scales, coarse ones strongest."""
    field = np.zeros((size, size), np.float32)
    cells, weight = 3, 1.0
    while cells < size:
        grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        field += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight * 0.6
    low, high = field.min(), field.max()
    return (field - low) / (high - low)


def _wave(rng: np.random.RandomState, size: int) -> np.ndarray:
    """(size, size) stripes in [0, 1]: any direction and width, smooth or sharp."""
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    period = size * np.exp(rng.uniform(np.log(0.04), np.log(0.3)))
    y, x = np.mgrid[:size, :size].astype(np.float32)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + phase)
    sharpness = np.exp(rng.uniform(0, 2))
    return np.clip(wave * sharpness, -1, 1) / 2 + 0.5


def _ramp(rng: np.random.RandomState, size: int) -> np.ndarray:
    """(size, size) linear gradient in [0, 1] of any direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    return np.clip((x * np.cos(angle) + y * np.sin(angle)) / 1.42 + 0.5, 0, 1)


def _texture(rng: np.random.RandomState, size: int, first: np.ndarray,
             second: np.ndarray) -> np.ndarray:
    """(size, size, 3) float32 BGR texture between two colours, of a random kind."""
    kind = rng.randint(4)
    if kind == 3:  # a check pattern is the difference of two waves
        blend = np.abs(_wave(rng, size) - _wave(rng, size))
    else:
        blend = (_cloud, _wave, _ramp)[kind](rng, size)
    blend = blend[..., None]
    return (first * (1 - blend) + second * blend).astype(np.float32)


def _background(rng: np.random.RandomState, size: int) -> np.ndarray:
    """Two textures that blend into each other softly, shaded by a cloud."""
    blend = np.clip((_cloud(rng, size) - 0.5) * 2 + rng.uniform(0.2, 0.8), 0, 1)[..., None]
    first, second = (_texture(rng, size, *_random_colours(rng)) for _ in range(2))
    return (first * blend + second * (1 - blend)) * (0.8 + 0.4 * _cloud(rng, size)[..., None])


def paint_scene(rng: np.random.RandomState, shapes: list[PlacedShape], size: int) -> np.ndarray:
    """Paint a planned scene.

    Colour and texture of a shape are drawn without regard to its class, so only its outline tells
    the class; the colours are redrawn until the shape stands out from what lies behind it.

    Returns:
        (size, size, 3) uint8 BGR picture.
    """
    picture = _background(rng, size)
    for shape in shapes:
        alpha = shape.alpha.astype(np.float32)[..., None] / 255
        behind = (picture * alpha).sum((0, 1)) / alpha.sum()
        for _ in range(20):
            first, second = _random_colours(rng)
            if np.linalg.norm((first + second) / 2 - behind) >= _MIN_CONTRAST:
                break
        picture = picture * (1 - alpha) + _texture(rng, size, first, second) * alpha
    picture = cv2.GaussianBlur(picture, (3, 3), rng.uniform(0.3, 0.8))
    picture += rng.normal(0, rng.uniform(1, 8), picture.shape)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)
