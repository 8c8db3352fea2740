"""``tools/export_onnx.py``: a whole detector as an ONNX file, checked against PyTorch."""
import copy
from collections.abc import Iterator
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from torch import nn

from ..api.detector import load_detector
from ..checkpoints.integrity import sha256
from ..demo.scenes import paint_scene, plan_scene
from ..engine.deploy import own_backbones
from ..errors import UserError, as_user_error
from ..fileio import write_atomically
from ..pillow_limit import pillow_limit_lifted
from ..pipeline import ImageError, build_pipeline, decode, tested_dataset
from ..type_names import type_name
from ..version import __version__
from .configs import own_name
from .images import collect_images
from .weights import local_file

# Images that are looked at before too few detections count as a failed check.
_MOST_IMAGES = 12
# Steps of a test pipeline that leave the image as it is.
_NO_PIXELS = ('LoadAnnotations', 'PackDetInputs')


def _apply_options(cfg, args) -> None:
    """Write the thresholds of the command line into the config, where MMDetection reads them."""
    test_cfg = cfg.model.get('test_cfg') or {}
    cfg.model.test_cfg = test_cfg
    test_cfg = test_cfg.get('rcnn', test_cfg)
    if args.score_thr is not None:
        if not 0 <= args.score_thr < 1:
            raise UserError(f'--score-thr is a number from 0 to 1, not {args.score_thr}.')
        test_cfg['score_thr'] = args.score_thr
    if args.max_per_img is not None:
        if args.max_per_img < 1:
            raise UserError(f'--max-per-img is a number of detections, not {args.max_per_img}.')
        test_cfg['max_per_img'] = args.max_per_img


def _resize_step(cfg) -> dict[str, Any]:
    """How the test pipeline resizes images, as a program without MMDetection is to do it.

    Raises:
        UserError: The pipeline does anything else to images, which such a program would not.
    """
    steps = []
    for step in (tested_dataset(cfg) or {}).get('pipeline', []):
        kind = type_name(step['type'])
        if kind == 'Resize':
            steps.append(step)
        elif kind not in _NO_PIXELS and (
                kind != 'LoadImageFromFile' or step.get('color_type', 'color') != 'color'):
            raise UserError(
                f'{kind} of the test pipeline: programs that use an ONNX file decode images (in '
                'colour, upright) and resize them as Resize does, and nothing else. Change the '
                'pipeline, and test with tools/test.py whether AP stays.')
    if len(steps) != 1 or 'scale' not in steps[0]:
        raise UserError('The test pipeline of the config must have one Resize with a scale: it is '
                        'stored in the ONNX file for the programs that use it.')
    step, = steps
    scale = step['scale']
    return dict(scale=[scale, scale] if isinstance(scale, int) else list(scale),
                keep_ratio=bool(step.get('keep_ratio', False)),
                backend=step.get('backend', 'cv2'),
                interpolation=step.get('interpolation', 'bilinear'))


def describe_file(model: nn.Module, cfg, args) -> dict[str, Any]:
    """What a program must know about the file, and what people want to.

    Args:
        model (nn.Module): Of :func:`mmcontainer.api.detector.load_detector`.
        cfg (Config): Its config.
        args (argparse.Namespace): Arguments of ``tools/export_onnx.py``.

    Returns:
        dict: See ``docs/deploy.md``.
    """
    test_cfg = model.test_cfg.get('rcnn', model.test_cfg)
    heads = getattr(model, 'roi_head', model).bbox_head
    head = heads[-1] if isinstance(heads, nn.ModuleList) else heads
    classes = model.dataset_meta['classes'] or map(str, range(head.num_classes))
    packages = dict(mmcontainer=__version__, torch=torch.__version__,
                    **{name: metadata.version(name) for name in ('onnx', 'onnxscript')})
    with_masks = getattr(model, 'with_mask', False) and not args.no_nms
    return dict(
        format=1, task='instance-segmentation' if with_masks else 'detection',
        classes=list(classes), resize=_resize_step(cfg),
        size=args.fixed_size, batch=None,
        score_thr=float(test_cfg.get('score_thr', 0)),
        max_per_img=int(test_cfg.get('max_per_img', getattr(model, 'num_queries', 100))),
        mask_thr=float(test_cfg.get('mask_thr_binary', 0.5)),
        config=own_name(args.config) or Path(args.config).stem, versions=packages,
        weights=sha256(local_file(args.checkpoint)))


# ------------------------------------------------------------------------------- images to check on

def _paths(cfg, args) -> list[str]:
    """Images of the command line, else of the test data, else none."""
    names = args.check_images
    if not names:
        dataset = tested_dataset(cfg) or {}
        prefix = (dataset.get('data_prefix') or {}).get('img')
        folder = Path(dataset.get('data_root') or '') / (prefix or '')
        names = [str(folder)] if prefix and folder.is_dir() else []
    found = collect_images(names)
    if args.check_images and not found.images:
        raise UserError('No image to check on:\n  ' + '\n  '.join(found.problems))
    return [image.path for image in found.images]


def _generated() -> Iterator[np.ndarray]:
    for seed in range(_MOST_IMAGES):
        rng = np.random.RandomState(seed)
        yield paint_scene(rng, plan_scene(rng, 320), 320)[..., ::-1]


def _read(paths: list[str], transforms: list) -> Iterator[np.ndarray]:
    for path in paths:
        try:
            with pillow_limit_lifted():
                image = decode(transforms, path)[0]['img']
        except ImageError as error:
            raise UserError(f'{path}: {error}') from error
        yield image[..., ::-1] if image.ndim == 3 else np.repeat(image[..., None], 3, 2)


def pictures(cfg, args) -> Iterator[np.ndarray]:
    """Pictures (H, W, 3), uint8 in RGB: as :func:`_paths` says, else generated ones.

    Raises:
        UserError: At once, if there is none of those named; later, if one cannot be read.
    """
    paths = _paths(cfg, args)
    if paths:
        return _read(paths, build_pipeline(cfg))
    print('The check is on generated pictures: there is no test data here, and --check-images '
          'names none.', flush=True)
    return _generated()


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(picture), size[::-1])


def _check_sizes(picture: np.ndarray, info: dict[str, Any]) -> list[tuple[int, int]]:
    """(height, width) of three sizes: as the test pipeline resizes a picture, and two others."""
    if info['size']:
        return [tuple(info['size'])] * 3
    width, height = (max(64, side) for side in mmcv.rescale_size(
        picture.shape[1::-1], tuple(info['resize']['scale'])))
    return [(height, width), (max(64, height * 3 // 4 + 1), width),
            (height, max(64, width * 3 // 5 + 3))]


def find_expected(model: nn.Module, images: Iterator[np.ndarray],
                  info: dict[str, Any]) -> list[tuple[np.ndarray, list]]:
    """What MMDetection finds at three sizes and in a batch of two: what a file is compared with.

    Args:
        model (nn.Module): The detector.
        images (Iterator[np.ndarray]): Pictures (H, W, 3), uint8 in RGB.
        info (dict): Of :func:`describe_file`.

    Returns:
        list: Images (B, H, W, 3) of one size and the :class:`Detections` in each of them.

    Raises:
        UserError: Too few detections to tell whether a file is right.
    """
    from ..export.comparison import MIN_DETECTIONS, predict
    images = list(islice(images, _MOST_IMAGES))
    sizes = _check_sizes(images[0], info)
    batches = [(size, [i % len(images)]) for i, size in enumerate(sizes)]
    batches += [(sizes[0], [i % len(images), (i + 1) % len(images)])
                for i in range(0, len(images), 2)]
    expected, number = [], 0
    for size, chosen in batches:
        if len(expected) > len(sizes) and number >= MIN_DETECTIONS:
            break
        batch = np.stack([_resized(images[i], size) for i in chosen])
        found = predict(model, batch, info['score_thr'])
        expected.append((batch, found))
        number += sum(len(one.scores) for one in found)
    if number < MIN_DETECTIONS:
        raise UserError(
            f'Only {number} objects were found in the {sum(len(batch) for batch, _ in expected)} '
            f'images of the check, {MIN_DETECTIONS} are needed to tell whether the file is right. '
            'Name images that show objects with --check-images, or lower --score-thr.')
    return expected


def check_file(path: str, expected: list[tuple[np.ndarray, list]], info: dict[str, Any]) -> str:
    """Compare what an ONNX file finds with what MMDetection finds.

    Args:
        path (str): The file.
        expected (list): Of :func:`find_expected`.
        info (dict): Of :func:`describe_file`.

    Returns:
        str: The result in words.

    Raises:
        UserError: Other detections.
    """
    import onnxruntime

    from ..export.comparison import Comparison, compare, run_file
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    total = Comparison()
    for batch, detections in expected:
        try:
            found = run_file(session, batch)
        except Exception as error:  # onnxruntime has no class of its own for it
            raise UserError(f'onnxruntime cannot run the ONNX file on images of {batch.shape[1]} x '
                            f'{batch.shape[2]} ({str(error).splitlines()[0]}).') from error
        compare(detections, found, info['score_thr'], info['max_per_img'], total)
    if not total.is_equal:
        raise UserError(f'The ONNX file finds something else than PyTorch: {total}.')
    different = len({batch.shape[1:3] for batch, _ in expected})
    return (f'{sum(len(batch) for batch, _ in expected)} images of {different} '
            f'size{"s" if different > 1 else ""}: {total}')


def _best_candidates(boxes: np.ndarray, scores: np.ndarray, number: int) -> list:
    """The best candidates of every image as detections, each with its best class."""
    from ..export.comparison import Detections
    found = []
    for of_boxes, of_scores in zip(boxes, scores):
        values, labels = of_scores.max(-1), of_scores.argmax(-1)
        if of_boxes.ndim == 3:  # a box for every class, or one for all
            of_boxes = of_boxes[np.arange(len(labels)), labels % of_boxes.shape[1]]
        order = np.argsort(-values, kind='stable')[:number]
        found.append(Detections(of_boxes[order], values[order], labels[order]))
    return found


def _check_raw(path: str, graph: nn.Module, images: Iterator[np.ndarray],
               info: dict[str, Any]) -> str:
    """As :func:`check_file` does, of the boxes and scores that ``--no-nms`` gives.

    MMDetection does not return them; the graph does in PyTorch.
    """
    import onnxruntime

    from ..export.comparison import Comparison, compare
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    image, total, number = next(images), Comparison(), 100
    for size in _check_sizes(image, info):
        batch = np.stack([_resized(image, size)] * 2)
        with torch.no_grad():
            expected = [out.numpy() for out in graph(torch.from_numpy(batch))]
        compare(_best_candidates(*expected, number),
                _best_candidates(*session.run(None, {'images': batch}), number), 0., number, total)
    if not total.is_equal:
        raise UserError(f'The ONNX file gives something else than PyTorch: {total}.')
    return str(total)


# ----------------------------------------------------------------------------------------- the tool

def export_detector(args, cfg, target: Path) -> None:
    """Write a detector as an ONNX file, which is checked before it stays.

    Args:
        args (argparse.Namespace): Arguments of ``tools/export_onnx.py``.
        cfg (Config): The config.
        target (Path): File to write.

    Raises:
        UserError: Nothing to export, or a file that finds something else than PyTorch.
    """
    if cfg.get('default_scope') != 'mmdet':
        raise UserError(f'{args.config} is no MMDetection config: export the backbone of it with '
                        '--backbone-only.')
    from ..export.graph import DetectorGraph, write_detector
    _apply_options(cfg, args)
    model = load_detector(cfg, args.checkpoint, 'cpu')
    info = describe_file(model, cfg, args)
    exported = copy.deepcopy(model)
    if not args.no_deploy:
        for backbone in own_backbones(exported):
            backbone.switch_to_deploy()
    graph = DetectorGraph(exported, with_nms=not args.no_nms).eval()
    images = pictures(cfg, args)
    # First, as writing a file takes longer.
    expected = None if args.no_nms else find_expected(model, images, info)
    results = []

    def write(path: str) -> None:
        with as_user_error():
            write_detector(graph, path, info, args.opset)
            results.append(_check_raw(path, graph, images, info) if args.no_nms
                           else check_file(path, expected, info))

    write_atomically(target, write)
    size = ' x '.join(map(str, args.fixed_size)) if args.fixed_size else 'any size'
    print(f'check: {results[0]}\n{target}: {target.stat().st_size / 2**20:.0f} MB, '
          f'{info["task"]}, images of {size}, outputs {", ".join(graph.output_names)}')
