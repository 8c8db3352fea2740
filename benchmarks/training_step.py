"""Split the time of ``tools/train.py`` into parts: its start, its data pipeline, a training step.

    python -m benchmarks.training_step mmcontainer::retinanet/container_light_fpn_1x_coco.py \
        --data-root DATA --json training_step.json

Trains from random weights on real images as the tool does, in a work dir that is thrown away, and
times the parts from outside. Steps count after a warm-up. Validation and checkpoints never come.
"""
# ruff: noqa: E402  importing is part of what is measured
import time


class Marks:
    """Seconds between moments, in order."""

    def __init__(self):
        self.last, self.rows = time.perf_counter(), []

    def __call__(self, name: str) -> None:
        """Record the time since the last call under a name."""
        moment = time.perf_counter()
        self.rows.append(dict(form=name, seconds=moment - self.last))
        self.last = moment


# What tools/train.py imports, in the order of what rests on what: importing is measured, too.
mark = Marks()
import torch

mark('import torch')
import mmcv  # noqa: F401
import mmengine.runner  # noqa: F401

mark('import mmengine, mmcv')
import mmcontainer.cli.train  # noqa: F401

mark('import mmcontainer')

import argparse
import functools
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from mmengine.config import DictAction
from mmengine.hooks import Hook, LoggerHook

from mmcontainer.cli.console import build_runner
from mmcontainer.cli.tool import run_tool
from mmcontainer.cli.train import prepare_config
from mmcontainer.engine.amp import prepare_mixed_training

from .harness import default_device, describe_machine
from .store import format_table, save_cases

WARM_UP = 3
OVERHEAD = 'everything else'
HOOKS, LOGGING, DATA = 'hooks', 'logging in every step', 'waiting for data'


class Stop(Exception):
    """Raised when enough steps are timed."""


class Clock:
    """Seconds by part; a part that runs inside another one counts once, as the inner one."""

    def __init__(self):
        self.parts: dict[str, float] = defaultdict(float)
        self.stack: list[float] = []

    def wrap(self, owner: object, method: str, part: str) -> None:
        """Time a method of an object from now on."""
        original = getattr(owner, method)

        @functools.wraps(original)
        def timed(*args, **kwargs):
            begin = now()
            self.stack.append(0.)
            try:
                return original(*args, **kwargs)
            finally:
                seconds = now() - begin
                self.parts[part] += seconds - self.stack.pop()
                if self.stack:
                    self.stack[-1] += seconds

        setattr(owner, method, timed)

    def take(self) -> dict[str, float]:
        """Parts since the last call."""
        parts, self.parts = dict(self.parts), defaultdict(float)
        return parts


def now() -> float:
    """Time in seconds, when the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Steps(Hook):
    """Times the training steps of a runner, by part, and stops it when there are enough.

    Args:
        number (int): Steps after the warm-up.

    Attributes:
        first (float): When the first step began.
        records (list[dict]): Seconds by part, one per step.
    """

    def __init__(self, number: int):
        self.clock, self.number = Clock(), number
        self.first, self.last_end, self.records = None, None, []

    def before_train(self, runner) -> None:
        """Time model, optimizer, hooks and ``run_iter``, which all exist by now."""
        model, wrapper, run_iter = runner.model, runner.optim_wrapper, runner.train_loop.run_iter
        model = getattr(model, 'module', model)
        self.clock.wrap(model.data_preprocessor, 'forward', 'normalise, pad, stack')
        self.clock.wrap(model, '_run_forward', 'forward and losses')
        self.clock.wrap(model, 'parse_losses', 'sum of the losses')
        self.clock.wrap(wrapper, 'backward', 'backward')
        self.clock.wrap(wrapper, 'step', 'optimizer')
        self.clock.wrap(wrapper, 'zero_grad', 'optimizer')
        for hook in runner.hooks:
            for method in ('before_train_iter', 'after_train_iter'):
                self.clock.wrap(hook, method, LOGGING if isinstance(hook, LoggerHook) else HOOKS)

        def timed(*args, **kwargs):
            begin = now()
            self.first = self.first or begin
            run_iter(*args, **kwargs)
            self.finish(begin, now())

        runner.train_loop.run_iter = timed

    def finish(self, begin: float, end: float) -> None:
        """Keep the record of a step; its wait for data lies before it."""
        parts = self.clock.take()
        parts[OVERHEAD] = end - begin - sum(parts.values())
        if self.last_end is not None:
            parts[DATA] = begin - self.last_end
        self.records.append(parts)
        self.last_end = end
        if len(self.records) == self.number + WARM_UP:
            raise Stop

    def rows(self) -> list[dict]:
        """Mean of every part: some hooks work in some steps only, and a mean keeps their share."""
        records = self.records[WARM_UP:]
        names = sorted({name for record in records for name in record})
        rows = [dict(form=name, seconds=statistics.fmean(r.get(name, 0.) for r in records))
                for name in names]
        return sorted(rows, key=lambda row: -row['seconds'])


def measure_pipeline(dataset, images: int) -> list[dict]:
    """Seconds per image of every transform, in this process."""
    clock = Clock()
    for transform in dataset.pipeline.transforms:
        clock.wrap(transform, 'transform', type(transform).__name__)
    for index in range(min(images, len(dataset))):
        dataset[index]
    return [dict(form=name, seconds=seconds / min(images, len(dataset)))
            for name, seconds in clock.take().items()]


def run(args: argparse.Namespace, work_dir: str) -> list[dict]:
    """Train some steps and return three cases: start, data pipeline, step."""
    train_args = argparse.Namespace(
        config=args.config, cfg_options=args.cfg_options, work_dir=work_dir,
        data_root=args.data_root, from_scratch=True, amp=args.amp, resume=None,
        auto_scale_lr=False, compile=False, launcher='none', overwrite=True)
    cfg = prepare_config(train_args)
    mark('read and check the config (imports mmdet)')
    # The config logs once in many steps, of which too few are timed: an upper bound instead.
    cfg.default_hooks.logger.interval = 1
    runner = build_runner(cfg, verbose=True)  # without the time that counting objects takes
    prepare_mixed_training(runner)  # as tools/train.py does
    mark('build the runner and the model')
    steps = Steps(args.steps)
    runner.register_hook(steps, 'LOWEST')
    try:
        runner.train()
    except Stop:
        pass
    else:
        print(f'Training ended after {len(steps.records)} steps: not as many as --steps asks for.')
    mark.rows.append(dict(form='optimizer, data sets, random weights, workers, first batch',
                          seconds=steps.first - mark.last))
    pipeline = measure_pipeline(runner.train_dataloader.dataset, args.images)
    batch = cfg.train_dataloader.batch_size  # the loader's own is None with a batch sampler
    return make_cases(args, batch, dict(zip(
        ('start', 'data pipeline, per image', 'training step'),
        (mark.rows, pipeline, steps.rows()))))


def make_cases(args: argparse.Namespace, batch: int, rows: dict[str, list[dict]]) -> list[dict]:
    """Cases as :mod:`benchmarks.store` keeps them."""
    machine = describe_machine(default_device())
    name = Path(args.config.split('::')[-1]).stem
    dtype = {None: 'float32', 'bf16': 'bfloat16', 'fp16': 'float16'}[args.amp]
    if args.cfg_options:
        name += ', ' + ', '.join(f'{key}={value}' for key, value in args.cfg_options.items())
    return [dict(suite='training_step', name=name, passes=passes, batch=batch, dtype=dtype,
                 rows=parts, machine=machine) for passes, parts in rows.items()]


def show(case: dict) -> None:
    """Print a case."""
    total = sum(row['seconds'] for row in case['rows'])
    rows = [[row['form'], f'{1e3 * row["seconds"]:.1f}', f'{100 * row["seconds"] / total:.1f} %']
            for row in case['rows']]
    print(f'\n{case["name"]}, {case["passes"]}: {total:.3f} s\n')
    print(format_table(['', 'ms', 'share'], rows))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.training_step',
                                     description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file, or mmcontainer::retinanet/...')
    parser.add_argument('--data-root', required=True, help='folder of real images, as for train.py')
    parser.add_argument('--steps', type=int, default=10, help='after a warm-up of three')
    parser.add_argument('--images', type=int, default=16, help='for the data pipeline')
    parser.add_argument('--amp', choices=['fp16', 'bf16'])
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    parser.add_argument('--json', metavar='FILE', help='merge the results into this file')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work_dir:
        cases = run(args, work_dir)
    for case in cases:
        show(case)
    if args.json:
        save_cases(args.json, cases)


if __name__ == '__main__':
    run_tool(main)
