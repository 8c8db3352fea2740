"""``--small``: the recipe of a row, cut down to a few generated images."""
from pathlib import Path

import cv2
import torch
from mmengine.config import Config
from pycocotools.coco import COCO

from ..compat import own_folder
from ..config_nodes import SPLITS, evaluators, iter_datasets, iter_dicts
from ..demo import CLASSES, MAP_CLASSES, ShapesParams, generate_shapes, write_maps
from ..errors import UserError
from ..fileio import write_atomically
from ..paper.rows import Row
from .config_changes import train_from_scratch

_DATA = ShapesParams(num_train=16, num_val=8)
_EPOCHS, _ITERATIONS, _IMAGES = 2, 2, 4
# Of a picture, for the second stages of detectors: a CPU takes a minute for those of a recipe.
_MOST = {'max_per_img': 50, 'num': 32}


def small_config(cfg) -> None:
    """Cut a recipe down: generated shapes, random weights, two epochs or iterations.

    Model, optimizer, losses and hooks stay; only what they count is fewer.

    Args:
        cfg (Config): Changed in place. ``data_root`` becomes 'data/shapes/' or 'data/imagenet/'.
    """
    train_from_scratch(cfg)
    scope = cfg.get('default_scope')
    classes = MAP_CLASSES if scope == 'mmseg' else CLASSES
    for _, node in (*iter_dicts(cfg.model, 'model'),
                    *iter_dicts(cfg.get('data_preprocessor'), 'data_preprocessor')):
        if node.get('num_classes') is not None:
            node['num_classes'] = len(classes)
    for section in ('train_cfg', 'test_cfg'):
        for _, node in iter_dicts(cfg.model.get(section), section):
            node.update({key: min(node[key], most) for key, most in _MOST.items() if key in node})
            # So early every score is below it, and an evaluation of nothing has no numbers.
            if 'score_thr' in node:
                node['score_thr'] = 0.
    (_use_crops if scope == 'mmpretrain' else _use_shapes)(cfg)
    for split in SPLITS:
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    _shorten(cfg)
    if not torch.cuda.is_available() and cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'OptimWrapper'
        for key in ('dtype', 'loss_scale'):
            cfg.optim_wrapper.pop(key, None)
    cfg.randomness = dict(seed=0)


def _use_shapes(cfg) -> None:
    """Read the demo's shapes, with masks or segmentation maps where the recipe has them."""
    masks = any('segm' in str(evaluator.get('metric')) for evaluator in evaluators(cfg))
    kind = 'instance' if masks else 'detection'
    if cfg.get('default_scope') == 'mmseg':
        kind, cfg.model.data_preprocessor.size = 'segmentation', (_DATA.size, _DATA.size)
    shapes = Config.fromfile(own_folder('configs') / '_base_' / f'shapes_{kind}.py')
    for split in SPLITS:
        cfg[f'{split}_dataloader'].dataset = shapes[f'{split}_dataloader'].dataset
    cfg.val_evaluator, cfg.test_evaluator = shapes.val_evaluator, shapes.test_evaluator


def _use_crops(cfg) -> None:
    """Read crops of the demo's shapes, in one folder per class."""
    for split in SPLITS:
        loader = cfg[f'{split}_dataloader']
        loader.batch_size = _IMAGES
        if 'times' in loader.dataset:
            loader.dataset.times = 1
        for leaf in iter_datasets(loader.dataset):
            leaf.update(metainfo=dict(classes=sorted(CLASSES)), ann_file='')
    for evaluator in evaluators(cfg):
        evaluator.update(dict(k=(1, )) if 'k' in evaluator else dict(topk=(1, )))
    # Of DINO's crops and outputs, a few show as much.
    for _, node in iter_dicts(cfg.train_dataloader, 'train_dataloader'):
        if 'num_views' in node:
            node['num_views'] = [1, 1, 2]
            cfg.model.head.out_channels = 64


def _shorten(cfg) -> None:
    is_by_iteration = 'max_iters' in cfg.train_cfg
    length = _ITERATIONS if is_by_iteration else _EPOCHS
    cfg.train_cfg.update({'max_iters' if is_by_iteration else 'max_epochs': length},
                         val_interval=length)
    cfg.default_hooks.checkpoint.interval = length // 2
    cfg.default_hooks.logger.interval = 1
    cfg.param_scheduler = [one for one in cfg.get('param_scheduler') or []
                           if one.get('begin', 0) < length]
    for hook in cfg.get('custom_hooks') or []:
        if 'num_iters' in hook:
            hook['num_iters'] = 2


def write_small(row: Row, cfg, work_dir: Path) -> None:
    """Generate the data of ``--small`` into ``work_dir/data``, and write its config.

    Args:
        row (Row): What is reproduced.
        cfg (Config): As :func:`small_config` made it.
        work_dir (Path): Made if it does not exist.

    Raises:
        UserError: Something else is in the folder of the data.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    reads_folders = row.task in ('classifier', 'DINO')
    shapes = work_dir / ('shapes' if reads_folders else 'data')
    try:
        generate_shapes(shapes, _DATA)
        if cfg.get('default_scope') == 'mmseg':
            write_maps(shapes)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f'--work-dir: {error}') from error
    if reads_folders:
        _crop(shapes, work_dir / 'data')
    write_atomically(work_dir / 'small.py', cfg.dump)


def _crop(shapes: Path, root: Path) -> None:
    """Write every shape of a generated data set as an image of its own, in a folder per class."""
    for split in ('train', 'val'):
        coco = COCO(shapes / 'annotations' / f'instances_{split}.json')
        for entry in coco.anns.values():
            x, y, width, height = (int(value) for value in entry['bbox'])
            picture = cv2.imread(str(shapes / split / coco.imgs[entry['image_id']]['file_name']))
            folder = root / split / CLASSES[entry['category_id'] - 1]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f'{entry["id"]:04d}.png'),
                        picture[y:y + height, x:x + width])
