"""``mmcontainer.Detector``: a trained detector in a few lines of Python."""
import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Optional, Union

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from torch import nn

from ..cli.class_names import name_classes
from ..cli.config_check import import_custom_modules
from ..cli.configs import build_model, check_config, load_config
from ..cli.images import MAX_PIXELS, check_image, readable
from ..cli.models import prepare_for_inference
from ..cli.tool import user_errors
from ..cli.weights import load_weights
from ..engine.dense_parts import deploy_dense_parts
from ..engine.deploy import own_backbones
from ..errors import ConfigError, UserError
from ..pillow_limit import pillow_limit_lifted
from ..pipeline import ImageError, build_pipeline, decode, take_pixels
from .inputs import Image, check_kind, image_errors, is_one, is_video_file, iter_images
from .results import Detections, describe


def choose_device(name: Optional[str]) -> str:
    """Return the device to use: the named one, else the first GPU, else the CPU.

    Raises:
        UserError: If it is none of this machine's.
    """
    if name is None:
        return 'cuda:0' if torch.cuda.is_available() else 'cpu'
    try:
        torch.zeros(1, device=torch.device(name)).item()  # fails on the meta device, too
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'The device {name} is not available here '
                        f'({str(error).splitlines()[0]}); use cpu, or cuda:0 on a machine with a '
                        'GPU.') from error
    return str(name)


def load_detector(cfg: Config, checkpoint: str, device: str) -> nn.Module:
    """Build an MMDetection detector with all its weights.

    Args:
        cfg (Config): Config of the detector; its default scope becomes that of the process.
        checkpoint (str): File that ``tools/train.py`` wrote.
        device (str): Where to run it.

    Returns:
        nn.Module: In evaluation mode, with ``dataset_meta``, and ``names_from``, which says where
        the class names come from.

    Raises:
        UserError: If the file does not exist or belongs to another model, or if it, or the config,
            names another number of classes.
    """
    model = revert_sync_batchnorm(build_model(cfg.model, cfg.get('default_scope', 'mmdet')))
    content = load_weights(model, checkpoint)
    model.dataset_meta, model.names_from = name_classes(model, content, cfg)
    return model.to(device).eval()


@dataclass
class ReadImage:
    """An image as the test pipeline has read it.

    Attributes:
        pixels: As decoded, (H, W) or (H, W, C) in BGR. Boxes and masks are in these pixels.
        data: What the pipeline has made of it for the network.
        name: Of its file; None without.
    """
    pixels: np.ndarray
    data: dict[str, Any]
    name: Optional[str]


class Detector:
    """A trained detector, which finds in an image what ``tools/infer.py`` and ``test.py`` find.

    ::

        path -> loader of the test pipeline -+-> the rest of it -> model -> Detections
        array (BGR) -------------------------+

    Weights are loaded completely or not at all, and backbones of this package are deployed: the
    same numbers up to rounding, and faster on a CPU.

    Args:
        config (str | Path | Config): Config of the detector: a file, the name of one of this
            package (``'mmcontainer::retinanet/container_light_fpn_1x_coco.py'``), or read already.
        checkpoint (str | Path): File that ``tools/train.py`` wrote, or its address.
        device (str, optional): 'cpu', 'cuda:0' ...; without it the first GPU if there is one.
        amp (str, optional): 'bf16' computes backbone, neck and dense heads in bfloat16.
        deploy (bool): Whether to deploy backbones, and on a CPU neck and heads.
        compiled (bool): Whether to ``torch.compile`` the backbone, which takes minutes on a CPU.

    Attributes:
        cfg: The config.
        model: MMDetection's detector, in evaluation mode; ``model.dataset_meta['classes']`` are the
            names of the classes: the checkpoint's, else the config's.

    Raises:
        UserError: Config, weights or device that do not exist or do not fit, or no MMDetection.

    Examples:
        >>> from mmcontainer import Detector
        >>> detector = Detector('CONFIG', 'CHECKPOINT')  # doctest: +SKIP
        >>> found = detector('photo.jpg')  # doctest: +SKIP
        >>> [(one.class_name, one.score, one.bbox) for one in found]  # doctest: +SKIP
    """

    def __init__(self, config: Union[str, Path, Config], checkpoint: Union[str, Path],
                 device: Optional[str] = None, amp: Optional[str] = None, *, deploy: bool = True,
                 compiled: bool = False):
        if find_spec('mmdet') is None:
            raise UserError('A detector needs MMDetection, which is not installed: '
                            '`python -m mmcontainer.doctor` names the command that installs it.')
        if amp not in (None, 'bf16'):
            raise UserError(f"amp must be None or 'bf16', got {amp!r}.")
        with user_errors():
            cfg = _as_config(config)
            model = load_detector(cfg, str(checkpoint), choose_device(device))
            if deploy:
                for backbone in own_backbones(model):
                    backbone.switch_to_deploy()
                deploy_dense_parts(model)
            prepare_for_inference(model, amp, compiled)
            self._adopt(model, cfg)

    @classmethod
    def from_model(cls, model: nn.Module, cfg: Config) -> 'Detector':
        """Detect with a model that is there already.

        Args:
            model (nn.Module): MMDetection's detector in evaluation mode, with ``dataset_meta``.
            cfg (Config): Its config, whose default scope has been set.
        """
        detector = cls.__new__(cls)
        detector._adopt(model, cfg)
        return detector

    def _adopt(self, model: nn.Module, cfg: Config) -> None:
        from ..visualization.detections import style_of
        self.model, self.cfg = model, cfg
        self._transforms = build_pipeline(cfg)
        self._meta = dict(model.dataset_meta, style=style_of(cfg))

    def __call__(self, images: Any, score_thr: float = 0.3, batch_size: int = 1,
                 max_pixels: int = MAX_PIXELS
                 ) -> Union[Detections, list[Detections], Iterator[Detections]]:
        """Detect objects.

        Args:
            images: Decides what is returned.

                - the path of an image file, or an array (H, W, 3) in **BGR** (as ``cv2.imread`` and
                  MMDetection have it) or (H, W), uint8: one result;
                - a folder, of which all images are done in the order of their names, or a list or
                  tuple of paths and arrays: a list of results, empty for an empty list;
                - a video file, or any other iterable of paths and arrays, a generator of frames
                  for example: a generator, which asks for an image when it is needed.
            score_thr (float): Objects with a lower score are left out.
            batch_size (int): Images that the network gets at once. Images of different sizes are
                padded to a common one, which changes scores a little, as in ``tools/test.py``; with
                1, every image gets the same results wherever it stands.
            max_pixels (int): Files with more pixels are refused unread.

        Returns:
            Detections | list[Detections] | Iterator[Detections]: See ``images``.

        Raises:
            UserError: An image that cannot be read, is no image, or is too small or too large,
                named; or senseless arguments.
        """
        if not 0 <= score_thr <= 1:
            raise UserError(f'score_thr must be a number from 0 to 1, got {score_thr}.')
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f'batch_size must be a whole number from 1, got {batch_size!r}.')
        if isinstance(images, (str, Path)):
            images = os.path.expanduser(images)
        if is_one(images):
            return next(self._stream([images], score_thr, 1, max_pixels))
        stream = self._stream(images, score_thr, batch_size, max_pixels)
        is_lazy = is_video_file(images) or not isinstance(images, (str, Path, list, tuple))
        return stream if is_lazy else list(stream)

    def _stream(self, images: Any, score_thr: float, batch_size: int,
                max_pixels: int) -> Iterator[Detections]:
        images = iter_images(images)
        # Each is read before the next is asked for: a generator may use one array for all frames.
        batches = ((image, self._read_checked(image, name, max_pixels)) for image, name in images)
        while batch := list(islice(batches, batch_size)):
            read = [one for _, one in batch]
            with image_errors(', '.join(one.name or 'an array' for one in read)):
                results = self.predict(read, score_thr)
            for found, (image, one) in zip(results, batch):
                found.pixels = partial(
                    _pixels, self._transforms,
                    one.pixels if isinstance(image, np.ndarray) else image)
            yield from results

    def _read_checked(self, image: Image, name: Optional[str], max_pixels: int) -> ReadImage:
        with image_errors(name or 'an array'):
            if not isinstance(image, np.ndarray):
                check_image(str(image), max_pixels, 'max_pixels')
            return self.read(image, name)

    def read(self, image: Image, name: Optional[str] = None) -> ReadImage:
        """Read an image for :meth:`predict`, as the test pipeline of the config reads it.

        Args:
            image (str | Path | np.ndarray): A file, or pixels, see :meth:`__call__`.
            name (str, optional): Name in the result; without it that of the file.

        Raises:
            ImageError: If it cannot be read, or is too small or thin for the pipeline.
            UserError: If an array is no image for this detector.
        """
        check_kind(image)
        if isinstance(image, np.ndarray):
            results, transforms = take_pixels(self._transforms, image)
        else:
            image = str(image)
            name = readable(image) if name is None else name
            with pillow_limit_lifted():
                results, transforms = decode(self._transforms, image)
        pixels = results['img'].copy()  # transforms may work in place
        height, width = pixels.shape[:2]
        try:
            for transform in transforms:
                results = transform(results)
                if results is None:
                    raise ImageError(f'{type(transform).__name__} of the test pipeline refuses it')
        except (cv2.error, ValueError) as error:  # of OpenCV or Pillow
            raise ImageError(f'{type(transform).__name__} of the test pipeline fails on {width} x '
                             f'{height} pixels ({getattr(error, "err", error)})') from error
        return ReadImage(pixels, results, name)

    @torch.no_grad()
    def predict(self, batch: Sequence[ReadImage], score_thr: float = 0.3) -> list[Detections]:
        """Detect objects in images that :meth:`read` has read, all at once.

        Raises:
            ImageError: If one is too small or thin for the backbone.
            UserError: If the model predicts no objects with boxes.
        """
        if not batch:
            return []
        try:
            samples = self.model.test_step(pseudo_collate([read.data for read in batch]))
        except ConfigError as error:  # too small or thin for the backbone
            raise ImageError(str(error)) from error
        if 'pred_instances' not in samples[0]:
            raise UserError(f'{type(self.model).__name__} predicts no objects with boxes; nothing '
                            'else is drawn.')
        return [describe(sample, self._meta, read.name, score_thr)
                for sample, read in zip(samples, batch)]


def _pixels(transforms: list, image: Image) -> np.ndarray:
    """Pixels of an image to draw on; those of files would fill the memory if results kept them."""
    if isinstance(image, np.ndarray):
        return image
    with image_errors(readable(image)), pillow_limit_lifted():
        return decode(transforms, str(image))[0]['img']


def _as_config(config: Any) -> Config:
    """Read and check what stands for a config."""
    if isinstance(config, (str, Path)):
        cfg = load_config(str(config))
    elif isinstance(config, Config):
        import_custom_modules(config)
        cfg = check_config(copy.deepcopy(config))
    else:
        raise UserError('config must be the path or name of a config file, or an mmengine.Config, '
                        f'got {type(config).__name__}.')
    if cfg.get('default_scope') != 'mmdet':
        raise UserError(f'{getattr(cfg, "filename", None) or "This"} is no MMDetection config; '
                        'nothing but objects with boxes is found.')
    return cfg
