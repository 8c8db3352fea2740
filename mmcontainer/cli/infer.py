"""``tools/infer.py``: detect objects in pictures, and write pictures and JSON."""
import errno
import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional

import cv2
import mmcv
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from torch import nn

from ..engine.deploy import own_backbones
from ..errors import ConfigError, UserError
from ..fileio import write_atomically
from ..pipeline import build_pipeline, decode
from .class_names import name_classes
from .configs import build_model, load_config
from .console import quiet_libraries
from .images import (
    ImageError,
    ImageFile,
    check_image,
    collect_images,
    pillow_limit_lifted,
    readable,
)
from .models import prepare_for_inference
from .paths import check_writable_folder
from .tool import user_message
from .weights import load_weights


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
        raise UserError(f'--device {name} is not available here ({str(error).splitlines()[0]}); '
                        'use cpu, or cuda:0 on a machine with a GPU.') from error
    return name


def load_detector(cfg, checkpoint: str, device: str) -> nn.Module:
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


class Detector:
    """A detector that is given image files as ``tools/test.py`` would give them to it.

    file -> loader of the test pipeline -> image -> the rest of it -> model -> sample
                                             |
                                             +----> to be drawn on

    Args:
        model (nn.Module): See :func:`load_detector`.
        cfg (Config): Its config.
    """

    def __init__(self, model: nn.Module, cfg):
        self.model, self.cfg = model, cfg
        self._transforms = build_pipeline(cfg)

    @torch.no_grad()
    def __call__(self, path: str):
        """Detect objects in an image.

        Returns:
            tuple: DetDataSample with ``pred_instances`` on the CPU, and the image as it was
            decoded, (H, W) or (H, W, C) in BGR. Boxes and masks are in its pixels.

        Raises:
            ImageError: If it cannot be read, or is too small or thin for the pipeline.
        """
        with pillow_limit_lifted():
            results, transforms = decode(self._transforms, path)
        image = results['img'].copy()  # transforms may work in place
        height, width = image.shape[:2]
        try:
            for transform in transforms:
                results = transform(results)
                if results is None:
                    raise ImageError(f'{type(transform).__name__} of the test pipeline refuses it')
        except cv2.error as error:
            raise ImageError(f'{type(transform).__name__} of the test pipeline fails on {width} x '
                             f'{height} pixels (OpenCV: {getattr(error, "err", error)})') from error
        try:
            sample = self.model.test_step(pseudo_collate([results]))[0]
        except ConfigError as error:  # too small or thin for the backbone
            raise ImageError(str(error)) from error
        if 'pred_instances' not in sample:
            raise UserError(f'{type(self.model).__name__} predicts no objects with boxes; this '
                            'tool draws nothing else.')
        return sample.cpu(), image


def describe(sample, classes: Optional[Sequence[str]], image: str,
             threshold: float) -> dict[str, Any]:
    """Turn a prediction into plain data.

    Args:
        sample (DetDataSample): Prediction for one image.
        classes (Sequence[str], optional): Class names; without them labels are numbered.
        image (str): Name of the image.
        threshold (float): Detections with a lower score are left out.

    Returns:
        dict: ``image``, ``height``, ``width`` and ``detections``, best first: ``label`` (number),
        ``class`` (name), ``score``, ``bbox`` [x1, y1, x2, y2] in pixels of the image as the test
        pipeline decodes it (by default upright, as viewers show it), and ``mask`` (COCO's
        compressed run-length code, as pycocotools reads it) where the model predicts masks.
    """
    from mmdet.structures.mask import encode_mask_results
    found = sample.pred_instances
    found = found[found.scores >= threshold].cpu()
    found = found[found.scores.argsort(descending=True, stable=True)]
    masks = encode_mask_results(found.masks.numpy()) if 'masks' in found else [None] * len(found)
    detections = []
    for label, score, box, mask in zip(found.labels.tolist(), found.scores.tolist(),
                                       found.bboxes.tolist(), masks):
        name = f'class {label}' if classes is None else classes[label]
        detection = {'label': label, 'class': name, 'score': round(score, 6),
                     'bbox': [round(value, 3) for value in box]}
        if mask is not None:
            detection['mask'] = dict(size=list(mask['size']), counts=mask['counts'].decode())
        detections.append(detection)
    height, width = sample.ori_shape[:2]
    return dict(image=image, height=height, width=width, detections=detections)


class OutputNames:
    """Names of output files: those of the images, told apart where two images share one.

    Args:
        folder (Path): Folder of the results.
        images (Iterable[ImageFile]): All images.
    """

    def __init__(self, folder: Path, images: Iterable[ImageFile]):
        self.folder = folder
        self._inputs = {os.path.realpath(image.path) for image in images}
        self._used = set()

    def __call__(self, image: ImageFile) -> Path:
        """Return the path of the picture for an image; its JSON has the same stem."""
        folder, stem, number = self.folder / image.name.parent, image.name.stem, 1
        while folder / stem in self._used or (
                os.path.realpath(folder / f'{stem}.jpg') in self._inputs):
            number += 1
            stem = f'{image.name.stem}_{number}'
        self._used.add(folder / stem)
        return folder / f'{stem}.jpg'


def _check_folder(folder: Path, images: list[ImageFile]) -> None:
    """Make the folder of the results, unless it is a place where they would do harm.

    Raises:
        UserError: A file, a folder that cannot be written, or one that holds the images.
    """
    among = next((image for image in images if os.path.realpath(
        os.path.dirname(image.path)) == os.path.realpath(folder)), None)
    if among is not None:
        raise UserError(f'--out-dir {readable(folder)} is the folder of {readable(among.path)}: '
                        'results would lie among the images. Name another one.')
    check_writable_folder(folder, '--out-dir')


def _failure(error: Exception, seen: set[str]) -> str:
    """Describe why an image could not be done; what looks like a defect once with its traceback."""
    if isinstance(error, ImageError):
        return str(error)
    text = f'{type(error).__name__}: {(str(error).strip().splitlines() or ["no message"])[0]}'
    out_of_memory = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        'allocate' in text)
    if user_message(error) is None and not out_of_memory and text not in seen:
        seen.add(text)
        traceback.print_exception(type(error), error, error.__traceback__)
    return text


def _write(target: Path, picture: np.ndarray, text: str) -> None:
    """Write picture, (H, W, 3) in RGB, and JSON.

    Raises:
        ImageError: If the image's name has no room for the suffix of the JSON.
        UserError: If the disk is full, say: the other images would fare no better.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target.with_suffix('.json'),
                         lambda file: Path(file).write_text(text, encoding='utf-8'))
        write_atomically(target, lambda file: mmcv.imwrite(picture[..., ::-1], file))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ImageError('its name is too long for a result') from error
        raise UserError(f'{readable(target)} cannot be written: {error.strerror}.') from error


def _prepare(args) -> Detector:
    """Load the detector that the command line names, and say what it is."""
    cfg = load_config(args.config, args.cfg_options)
    if cfg.get('default_scope') != 'mmdet':
        raise UserError(f'{args.config} is no MMDetection config; this tool draws detections.')
    model = load_detector(cfg, args.checkpoint, choose_device(args.device))
    if not args.no_deploy:
        for backbone in own_backbones(model):
            backbone.switch_to_deploy()
    prepare_for_inference(model, args.amp, args.compile)
    print(f'{type(model).__name__} of {readable(args.checkpoint)}; '
          f'{len(model.dataset_meta["classes"] or ())} classes, {model.names_from}; on '
          f'{next(model.parameters()).device}', flush=True)
    return Detector(model, cfg)


def infer(args) -> int:
    """Detect objects in all images and write what was found.

    Args:
        args (argparse.Namespace): Arguments of ``tools/infer.py``.

    Returns:
        int: Exit code: 1 if an image could not be done, all others being done.

    Raises:
        UserError: If nothing can be done at all.
    """
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr is a number from 0 to 1, not {args.score_thr}.')
    if args.max_pixels < 1:
        raise UserError(f'--max-pixels is a number of pixels, not {args.max_pixels}.')
    folder = Path(args.out_dir).expanduser()
    quiet_libraries()
    found = collect_images(args.images, args.recursive, str(folder))
    if not found.images:
        raise UserError('No image to work on:\n  ' + '\n  '.join(found.problems + found.skipped))
    _check_folder(folder, found.images)
    detector = _prepare(args)
    for message in found.skipped:
        print(message, flush=True)
    for problem in found.problems:
        print(f'error: {problem}', file=sys.stderr, flush=True)
    # Imported late: this module has to work without MMDetection.
    from ..visualization.detections import DetectionVisualizer, as_rgb, style_of
    meta = detector.model.dataset_meta
    visualizer = DetectionVisualizer(meta, **style_of(detector.cfg))
    names, failed, seen = OutputNames(folder, found.images), len(found.problems), set()
    for image in found.images:
        name = readable(image.path)
        try:
            several = check_image(image.path, args.max_pixels)
            sample, pixels = detector(image.path)
            result = describe(sample, meta['classes'], name, args.score_thr)
            text = json.dumps(result, indent=1, allow_nan=False)
            picture = visualizer.draw(as_rgb(pixels), sample, args.score_thr)
            target = names(image)
            _write(target, picture, text)
        except UserError:
            raise
        except Exception as error:
            failed += 1
            print(f'error: {name}: {_failure(error, seen)}', file=sys.stderr, flush=True)
            continue
        print(f'{name}{" (its first picture)" if several else ""}: {len(result["detections"])} '
              f'objects -> {readable(target)}', flush=True)
    if failed:
        print(f'error: {failed} could not be done, see above', file=sys.stderr)
    return 1 if failed else 0
