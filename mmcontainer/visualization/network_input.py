"""Prepare an image as a config does for its network, and follow its pixels on the way."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ..errors import UserError
from ..pipeline import ImageError, build_pipeline, decode

_RESIZERS = {'Resize', 'FixScaleResize', 'FixShapeResize', 'RandomChoiceResize', 'RandomResize',
             'ResizeEdge', 'ResizeShortestEdge'}


class Geometry(NamedTuple):
    """Axis-aligned map from places in the image file to places in the network's input.

    Coordinates are (x, y) and continuous: the pixel in column i covers i ... i + 1.

    Attributes:
        scale (np.ndarray): (2, ), pixels of the input per pixel of the file.
        offset (np.ndarray): (2, ), where the file's corner (0, 0) lies in the input; negative after
            a crop.
    """
    scale: np.ndarray
    offset: np.ndarray

    def to_input(self, place: Sequence[float]) -> np.ndarray:
        return np.asarray(place) * self.scale + self.offset

    def to_file(self, place: Sequence[float]) -> np.ndarray:
        return (np.asarray(place) - self.offset) / self.scale


class NetworkInput(NamedTuple):
    """One image in the form in which a backbone gets it.

    Attributes:
        inputs (Tensor): (1, C, H, W), normalised and padded.
        picture (np.ndarray): (h, w, 3), RGB, uint8: the same before normalisation and before the
            padding of the batch, h <= H and w <= W.
        file_size (tuple[int, int]): (height, width) of the image file, turned upright.
        geometry (Geometry): From the file's pixels to those of ``inputs``.
        content (tuple[float, ...]): (x1, y1, x2, y2), the part of ``inputs`` that shows the image;
            the rest is padding.
    """
    inputs: Tensor
    picture: np.ndarray
    file_size: tuple[int, int]
    geometry: Geometry
    content: tuple[float, float, float, float]


def prepare_image(cfg, data_preprocessor: nn.Module, path: Path) -> NetworkInput:
    """Run an image through the test pipeline and the data preprocessor of a config.

    Args:
        cfg (Config): Its default scope must have been set.
        data_preprocessor (nn.Module): Of the model; ``inputs`` is on its device.
        path (Path): Image file.

    Raises:
        UserError: If the file is missing or no image, or the config has no test pipeline or one
            that moves pixels in a way that is not followed here (flips, for example).
    """
    if not path.is_file():
        raise UserError(f'There is no image {path}.')
    try:
        results, transforms = decode(build_pipeline(cfg), str(path))
    except ImageError as error:
        raise UserError(f'{path} {error}.') from error
    file_size = results['img'].shape[:2]
    geometry = Geometry(np.ones(2), np.zeros(2))
    for transform in transforms:
        old = results.get('img')
        results = transform(results)
        if results is None:
            raise UserError(f'{path}: {type(transform).__name__} of the test pipeline refuses it.')
        if 'img' not in results:
            continue
        geometry = _follow(geometry, transform, old.shape[:2], results['img'].shape[:2])
        if results.get('flip'):
            raise UserError('The test pipeline of the config flips the image; remove '
                            f'{type(transform).__name__} from it.')
    image = results['inputs']
    with torch.no_grad():
        inputs = data_preprocessor(pseudo_collate([results]), False)['inputs']
    corners = geometry.to_input((0, 0)), geometry.to_input(file_size[::-1])
    limits = np.array(image.shape[:0:-1])
    content = np.concatenate([corner.clip(0, limits) for corner in corners])
    return NetworkInput(inputs, _to_picture(image), tuple(file_size), geometry,
                        tuple(content.tolist()))


def _follow(geometry: Geometry, transform: Any, old: Sequence[int],
            new: Sequence[int]) -> Geometry:
    """The geometry after a transform that turned an image of size ``old`` into one of ``new``."""
    name = type(transform).__name__
    old, new = np.array(old[::-1]), np.array(new[::-1])  # (height, width) -> (x, y)
    if (old == new).all() or name == 'Pad':  # MMCV pads on the right and at the bottom only
        return geometry
    if name in _RESIZERS:
        return Geometry(geometry.scale * new / old, geometry.offset * new / old)
    if name == 'CenterCrop':
        # As MMCV rounds; where the crop is bigger than the image, it was padded like by Pad.
        return geometry._replace(offset=geometry.offset - np.round((old - new) / 2).clip(min=0))
    raise UserError(f'The test pipeline of the config has {name}, which changes the size of the '
                    'image in a way that this tool cannot follow; it knows '
                    f'{", ".join(sorted(_RESIZERS | {"CenterCrop", "Pad"}))}.')


def _to_picture(image: Tensor) -> np.ndarray:
    """(3, h, w) BGR or (1, h, w) grey, as pipelines give it, to (h, w, 3) RGB, uint8."""
    image = image.detach().cpu()
    if image.dtype != torch.uint8:  # normalised by the pipeline: show it in its own range
        image = image.float() - image.min()
        image = (255 * image / image.max().clamp(min=1e-12)).to(torch.uint8)
    image = image.flip(0) if len(image) == 3 else image[:1].expand(3, -1, -1)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
