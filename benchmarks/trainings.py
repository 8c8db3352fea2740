"""Trainings of ``benchmarks.qualify``: images per second, beside what the data loader could give.

They take the path of ``tools/train.py``.
"""
import argparse
import json
import time
from pathlib import Path
from typing import Optional

import mmengine.device.utils
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcontainer.backbones import Container
from mmcontainer.cli.console import build_runner, quiet_libraries
from mmcontainer.cli.imagenet_subset import list_images
from mmcontainer.cli.train import prepare_config
from mmcontainer.demo import ShapesParams, generate_shapes
from mmcontainer.engine.amp import prepare_mixed_training
from mmcontainer.fileio import write_text

DETECTOR = 'configs/retinanet/container_light_fpn_demo_shapes.py'
WARM_UP = 5
# With --tiny: a block per stage.
TINY = {'model.backbone.type': 'Container',
        'model.backbone.arch': {**Container.arch_settings['light'], 'depths': (1, 1, 1, 1)}}
# The loader alone is watched for so many seconds.
LOADER_SECONDS = 10.
CLASSIFIER = """
_base_ = 'mmcontainer::imagenet/container_light_8xb128_in1k.py'

model = dict(head=dict(num_classes={number}))
data_preprocessor = dict(num_classes={number})
train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = 64
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 64
test_pipeline[2].crop_size = 64
metainfo = dict(classes={classes})
train_dataloader = dict(batch_size={batch}, num_workers={workers}, persistent_workers={workers} > 0,
                        dataset=dict(metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(batch_size={batch}, num_workers={workers}, persistent_workers={workers} > 0,
                      dataset=dict(metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator
# float32, unless the caller says --amp.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=1e-3))
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
# Epochs are few, so that the rate rises within the first.
warmup, cosine = _base_.param_scheduler[1:]
warmup.update(begin=0, end=1, convert_to_iter_based=True)
cosine.begin = 1
param_scheduler = [warmup, cosine]
"""


class Throughput(Hook):
    """Notes when every training step ended. Its wait for the GPU is the only thing it adds.

    Attributes:
        moments (list[float]): Seconds, one per step.
    """

    def __init__(self):
        self.moments = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Note the time, when the GPU is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.moments.append(time.perf_counter())

    def images_per_second(self, batch: int) -> float:
        """Of all steps after the warm-up, the waits for data included.

        Raises:
            RuntimeError: If there were too few steps to say.
        """
        moments = self.moments[min(WARM_UP, len(self.moments) - 2):]
        if len(moments) < 2:
            raise RuntimeError(f'{len(self.moments)} training steps are too few to be timed.')
        return batch * (len(moments) - 1) / (moments[-1] - moments[0])


def loader_limit(cfg, batch: int, seconds: float) -> float:
    """Images per second of the training's data loader, when nothing else is done."""
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    count, start = 0, None
    for _ in loader:
        now = time.perf_counter()
        if start is None:  # the first batch waits for the workers to start
            start = now
            continue
        count += batch
        if now - start > seconds:
            break
    if count == 0:
        raise RuntimeError('The data set is a single batch, which says nothing about its speed.')
    return count / (now - start)


def train(args: argparse.Namespace, name: str, config: str, data_root: Path, amp: Optional[str],
          options: dict) -> dict:
    """Train and evaluate.

    Returns:
        dict: ``name``, ``dtype``, ``seconds`` of training and validation, ``images_per_second``,
        ``loader_images_per_second``, and ``metrics`` of the evaluation after the training.
    """
    cfg = prepare_config(argparse.Namespace(
        config=config, work_dir=str(args.out / 'work' / f'{name}_{amp or "fp32"}'),
        data_root=str(data_root), cfg_options=options, from_scratch=True, amp=amp,
        auto_scale_lr=False, resume=None, overwrite=True, launcher='none'))
    batch = cfg.train_dataloader.batch_size
    runner = build_runner(cfg)
    prepare_mixed_training(runner)
    hook, start = Throughput(), time.perf_counter()
    runner.register_hook(hook, 'LOWEST')
    runner.train()
    seconds = time.perf_counter() - start
    metrics = {key: float(value) for key, value in runner.test().items()}
    result = dict(
        name=name, dtype={None: 'float32', 'bf16': 'bfloat16'}[amp], batch=batch, seconds=seconds,
        images_per_second=hook.images_per_second(batch), metrics=metrics,
        loader_images_per_second=loader_limit(cfg, batch, 1. if args.tiny else LOADER_SECONDS))
    print(json.dumps(result), flush=True)
    return result


def write_trainings(path: Path, results: list[dict]) -> None:
    """The file of a part, anew after every training."""
    text = json.dumps(dict(trainings=results), indent=1) + '\n'
    write_text(path, text)


def _prepare(args: argparse.Namespace) -> None:
    quiet_libraries()
    # What mmengine's get_device() returns; a config or Runner has no argument for it.
    mmengine.device.utils.DEVICE = args.device.type


def make_shapes(args: argparse.Namespace) -> Path:
    """The demo's data set; kept if it is complete already."""
    folder = args.out / 'data' / 'shapes'
    folder.parent.mkdir(parents=True, exist_ok=True)
    generate_shapes(folder, ShapesParams(num_train=12, num_val=4) if args.tiny else ShapesParams())
    return folder


def train_demo(args: argparse.Namespace) -> None:
    """The demo's detector in float32 and bfloat16, for as long as the demo trains it."""
    _prepare(args)
    folder, results = make_shapes(args), []
    options = {
        **TINY, 'model.test_cfg.score_thr': 0., 'train_cfg.max_epochs': 1,
        'param_scheduler.1.T_max': 1, 'param_scheduler.1.end': 1,
        'train_dataloader.batch_size': 2, 'train_dataloader.dataset.indices': 4,
        'val_dataloader.dataset.indices': 2, 'test_dataloader.dataset.indices': 2,
    } if args.tiny else {}
    for amp in (None, 'bf16'):
        results.append(train(args, 'demo', DETECTOR, folder, amp, options))
        write_trainings(args.out / 'demo.json', results)


def _paint_folder(folder: Path) -> Path:
    """A folder of a few random images of two classes, for ``--tiny``."""
    import mmcv
    generator = np.random.default_rng(0)
    for split, number in (('train', 2), ('val', 1)):
        for name in ('dark', 'light'):
            for index in range(number):
                picture = generator.integers(0, 120, (64, 64, 3), dtype=np.uint8)
                picture += 120 * (name == 'light')
                mmcv.imwrite(picture, str(folder / split / name / f'{index}.png'))
    return folder


def train_classifier(args: argparse.Namespace) -> None:
    """Container-Light from random weights at 64 x 64 pixels, in both precisions."""
    _prepare(args)
    folder = _paint_folder(args.out / 'data' / 'images') if args.tiny else args.images
    classes = tuple(list_images(folder / 'train'))
    config = args.out / 'classifier_config.py'
    text = CLASSIFIER.format(number=len(classes), classes=classes, batch=2 if args.tiny else 128,
                             workers=0 if args.tiny else 8, epochs=2 if args.tiny else 6)
    config.write_text(text, encoding='utf-8')
    # In the config, arch is the name of one.
    arch = dict(TINY['model.backbone.arch'], _delete_=True)
    options, results = {**TINY, 'model.backbone.arch': arch} if args.tiny else {}, []
    for amp in (None, 'bf16'):
        results.append(train(args, 'classifier', str(config), folder, amp, options))
        write_trainings(args.out / 'classifier.json', results)
