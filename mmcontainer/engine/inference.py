"""``tools/infer.py``: detect objects in pictures, and write pictures and JSON."""
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable, Optional

import mmcv
import numpy as np
import torch
from mmengine.registry import VISUALIZERS
from torch import nn

from ..checkpoints import load_file, unwrap_state_dict
from .configs import load_config
from .deploy import fold_norms, prepare_for_inference
from .errors import UserError
from .setup import check_weights

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')


def collect_images(names: Iterable[str]) -> tuple[list[Path], list[str]]:
    """List the files meant by the names of files and folders.

    Returns:
        tuple: Images (of a folder those with the suffix of one, sorted), and messages about names
            that
        stand for none.
    """
    images, problems = [], []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = sorted(file for file in path.iterdir()
                           if file.suffix.lower() in SUFFIXES and file.is_file())
            images.extend(found)
            if not found:
                problems.append(f'{name}: a folder without images ({" ".join(SUFFIXES)})')
        elif path.is_file():
            images.append(path)
        else:
            problems.append(f'{name}: there is no such file or folder')
    return images, problems


def read_image(path: Path) -> Optional[np.ndarray]:
    """Read a picture as (H, W, 3), BGR; None if it is not a readable one."""
    try:
        return mmcv.imread(str(path))
    except Exception:  # OpenCV raises errors of its own for empty files, the others their own
        return None


def choose_device(name: Optional[str]) -> str:
    """Return the device to use: the named one, else the first GPU, else the CPU.

    Raises:
        UserError: If it is none of this machine's.
    """
    if name is None:
        return 'cuda:0' if torch.cuda.is_available() else 'cpu'
    try:
        torch.empty(0, device=torch.device(name))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'--device {name} is not available here ({str(error).splitlines()[0]}); '
                        'use cpu, or cuda:0 on a machine with a GPU.') from error
    return name


def load_detector(cfg, checkpoint: str, device: str) -> nn.Module:
    """Build an MMDetection detector with all its weights.

    Args:
        cfg (Config): Config of the detector.
        checkpoint (str): File that ``tools/train.py`` wrote.
        device (str): Where to run it.

    Returns:
        nn.Module: In evaluation mode, with ``cfg`` and ``dataset_meta``.

    Raises:
        UserError: If the file does not exist or belongs to another model.
    """
    from mmdet.apis import init_detector
    cfg.load_from = None
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about the checkpoint, which is loaded below
        model = init_detector(cfg, None, device='cpu')
    check_weights(model, checkpoint)
    content = load_file(checkpoint)
    model.load_state_dict(unwrap_state_dict(content))
    meta = content.get('meta', {}).get('dataset_meta') if isinstance(content, dict) else None
    model.dataset_meta = {**_config_meta(cfg), **(meta or {})}
    return model.to(device).eval()


def _config_meta(cfg) -> dict[str, Any]:
    """Class names and colours of the config's test data, without reading it."""
    from mmdet.registry import DATASETS
    return dict(DATASETS.build({**cfg.test_dataloader.dataset, 'lazy_init': True}).metainfo)


def describe(sample, classes: list[str], image: Path, threshold: float) -> dict[str, Any]:
    """Turn a prediction into plain data.

    Args:
        sample (DetDataSample): Prediction for one image.
        classes (list[str]): Class names.
        image (Path): The image.
        threshold (float): Detections with a lower score are left out.

    Returns:
        dict: ``image``, ``height``, ``width`` and ``detections``, best first: ``label`` (number),
        ``class`` (name), ``score``, ``bbox`` [x1, y1, x2, y2] in pixels of the image, and ``mask``
        (COCO's compressed run-length code, as pycocotools reads it) where the model predicts masks.
    """
    from mmdet.structures.mask import encode_mask_results
    found = sample.pred_instances
    found = found[found.scores >= threshold].cpu()
    found = found[found.scores.argsort(descending=True)]
    masks = encode_mask_results(found.masks.numpy()) if 'masks' in found else [None] * len(found)
    detections = []
    for label, score, box, mask in zip(found.labels.tolist(), found.scores.tolist(),
                                       found.bboxes.tolist(), masks, strict=True):
        detection = {'label': label, 'class': classes[label], 'score': round(score, 6),
                     'bbox': [round(value, 3) for value in box]}
        if mask is not None:
            detection['mask'] = dict(size=list(mask['size']), counts=mask['counts'].decode())
        detections.append(detection)
    height, width = sample.ori_shape[:2]
    return dict(image=str(image), height=height, width=width, detections=detections)


def write_atomically(target: Path, write: Callable[[str], Any]) -> None:
    """Let ``write`` fill a temporary file beside the target, which then takes its place."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix='.', suffix=target.suffix)
    os.close(handle)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


class OutputNames:
    """Names of output files: those of the images, told apart where two images share one."""

    def __init__(self, folder: Path, images: Iterable[Path]):
        self.folder = folder
        self._inputs = {image.resolve() for image in images}
        self._used = set()

    def __call__(self, image: Path) -> Path:
        """Return the path of the picture for an image; its JSON has the same stem."""
        stem, number = image.stem, 1
        while stem in self._used or (self.folder / f'{stem}.jpg').resolve() in self._inputs:
            number += 1
            stem = f'{image.stem}_{number}'
        self._used.add(stem)
        return self.folder / f'{stem}.jpg'


def infer(args) -> int:
    """Detect objects in all images and write what was found.

    Args:
        args (argparse.Namespace): Arguments of ``tools/infer.py``.

    Returns:
        int: Exit code: 1 if an image could not be read, all others being done.

    Raises:
        UserError: If nothing can be done at all.
    """
    from mmdet.apis import inference_detector
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr is a number from 0 to 1, not {args.score_thr}.')
    images, problems = collect_images(args.images)
    if not images:
        raise UserError('No image to work on:\n  ' + '\n  '.join(problems))
    cfg = load_config(args.config, args.cfg_options)
    if cfg.get('default_scope') != 'mmdet':
        raise UserError(f'{args.config} is no MMDetection config; this tool draws detections.')
    model = load_detector(cfg, args.checkpoint, choose_device(args.device))
    if not args.no_deploy:
        fold_norms(model)
    prepare_for_inference(model, args.amp, args.compile)
    visualizer = VISUALIZERS.build({**cfg.visualizer, 'vis_backends': None})
    visualizer.dataset_meta = model.dataset_meta
    folder = Path(args.out_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    names = OutputNames(folder, images)
    for path in images:
        image = read_image(path)
        if image is None:
            problems.append(f'{path}: cannot be read as an image')
            continue
        sample = inference_detector(model, image)
        target = names(path)
        result = describe(sample, model.dataset_meta['classes'], path, args.score_thr)
        write_atomically(target, lambda file, image=image, sample=sample: visualizer.add_datasample(
            'image', mmcv.bgr2rgb(image), sample.cpu(), draw_gt=False,
            pred_score_thr=args.score_thr, out_file=file))
        write_atomically(target.with_suffix('.json'), lambda file, result=result: Path(
            file).write_text(json.dumps(result, indent=1), encoding='utf-8'))
        print(f'{path}: {len(result["detections"])} objects -> {target}', flush=True)
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr)
    return 1 if problems else 0
