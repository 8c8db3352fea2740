"""``tools/demo.py``: generate data, train a detector on them, evaluate it, draw what it does.

The runner is built as by ``tools/train.py``.
"""
import contextlib
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import mmengine.device.utils
import torch
from mmengine.runner import Runner

from ..cli.console import build_runner, quiet_libraries
from ..cli.paths import held_checkpoints
from ..cli.train import keep_config, prepare_config
from ..compat import python_command, short_path
from ..errors import UserError
from ..visualization.contact_sheet import draw_contact_sheet, predict
from ..visualization.curves import draw_curves
from .generate import ShapesParams, generate_shapes

CONFIG = 'configs/retinanet/container_light_fpn_demo_shapes.py'
SCORE_THR = 0.4
_NUM_PICTURES = 6
# Too few images to learn anything: tests use it to see that all parts work together.
_SMOKE = ShapesParams(num_train=8, num_val=4)


def find_device() -> tuple[str, str]:
    """Choose between GPU and CPU.

    Returns:
        'cuda' or 'cpu', and the reason in words. A GPU counts only if the compiled ops of mmcv run
        on it: they are CPU-only where mmcv was built without nvcc.
    """
    threads = torch.get_num_threads()
    cores = f'{threads} CPU thread{"s" if threads > 1 else ""}'
    if not torch.cuda.is_available():
        return 'cpu', f'{cores}, because PyTorch finds no CUDA GPU'
    try:
        from mmcv.ops import nms
        boxes = torch.tensor([[0., 0., 2., 2.], [0., 0., 2., 2.]], device='cuda')
        nms(boxes, torch.tensor([0.9, 0.8], device='cuda'), 0.5)
    except Exception as error:  # whatever is wrong with the GPU, the CPU does the demo as well
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return 'cpu', (f'{cores}; there is a GPU ({torch.cuda.get_device_name()}), but the ops of '
                       f'mmcv do not run on it ({reason}): see `{python_command()} -m '
                       'mmcontainer.doctor`')
    return 'cuda', f'the GPU ({torch.cuda.get_device_name()})'


@contextlib.contextmanager
def _step(number: int, what: str, duration: str) -> Iterator[None]:
    """Say what is done in a block, how long it will take, and how long it took."""
    print(f'\n[{number}/4] {what} ({duration})', flush=True)
    start = time.monotonic()
    yield
    print(f'      took {time.monotonic() - start:.0f} s', flush=True)


def _generate(data_dir: str, smoke: bool) -> None:
    try:
        generate_shapes(data_dir, _SMOKE if smoke else ShapesParams())
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f'--data-dir: {error}') from error


def _check_work_dir(work_dir: str) -> None:
    """Refuse a folder with checkpoints that the demo did not write: a training is hours of work."""
    folder = Path(work_dir)
    found = held_checkpoints(folder)
    if found and [path.name for path in folder.glob('[!.]*.py')] != [Path(CONFIG).name]:
        raise UserError(
            f'--work-dir {work_dir} holds checkpoints of another training ({found}), which the '
            'demo would overwrite. Choose another folder.')


def _build(args: Namespace) -> Runner:
    """The runner that ``tools/train.py`` would build, with little on the screen."""
    quiet_libraries()
    options = {'randomness.seed': args.seed}
    if args.smoke:
        # So early every score is below the threshold, and an evaluation of nothing has no numbers.
        options['model.test_cfg.score_thr'] = 0.
    epochs = 1 if args.smoke and args.epochs is None else args.epochs
    if epochs is not None:
        options.update({'train_cfg.max_epochs': epochs, 'param_scheduler.1.T_max': epochs,
                        'param_scheduler.1.end': epochs})
    cfg = prepare_config(Namespace(
        config=CONFIG, work_dir=args.work_dir, data_root=args.data_dir, cfg_options=options,
        from_scratch=False, amp=None, auto_scale_lr=False, resume=None, overwrite=True,
        launcher='none'))
    runner = build_runner(cfg)
    # Says what was trained, and tells the next demo that the checkpoints are not of anyone else.
    keep_config(runner)
    return runner


def _draw(runner: Runner, metrics: dict[str, float]) -> tuple[Path, Path]:
    """Write ``curves.png`` and ``detections.png`` into the work dir."""
    work_dir = Path(short_path(runner.work_dir))
    curves, sheet = work_dir / 'curves.png', work_dir / 'detections.png'
    draw_curves(Path(runner.log_dir, 'vis_data', 'scalars.json'), curves,
                title='Container-Light RetinaNet, from scratch on generated shapes')
    dataset = runner.test_dataloader.dataset
    samples = predict(runner.model, dataset, range(min(_NUM_PICTURES, len(dataset))))
    draw_contact_sheet(samples, dataset.metainfo, sheet, SCORE_THR,
                       title=f'The first held-out pictures; box AP {metrics["coco/bbox_mAP"]:.3f} '
                             f'on all {len(dataset)}')
    return curves, sheet


def _print_next(args: Namespace, checkpoint: Optional[str]) -> None:
    command, root = f'{python_command()} -m mmcontainer', Path(args.data_dir)
    picture = root / 'val' / '000001.jpg'
    lines = [
        ('detect on pictures of your own',
         f'{command} infer {picture} --config {CONFIG} --checkpoint {checkpoint}'),
        ('evaluate again, drawing every picture',
         f'{command} test {CONFIG} {checkpoint} --data-root {root} '
         f'--show-dir pictures'),
        ('train on COCO (its folder in place of data/coco), without ImageNet weights',
         f'{command} train configs/retinanet/container_light_fpn_1x_coco.py '
         f'--data-root data/coco --from-scratch'),
    ]
    print('\nWhat to run next:')
    for what, line in lines:
        print(f'  # {what}\n  {line}')


def run_demo(args: Namespace) -> dict[str, float]:
    """Run the demo and say at every step what it does and how long it takes.

    Args:
        args: Arguments of ``tools/demo.py``: ``work_dir``, ``data_dir``, ``epochs`` (None: as in
            the config), ``seed`` and ``smoke``.

    Returns:
        COCO metrics on the held-out images, ``coco/bbox_mAP`` among them.

    Raises:
        UserError: Something else is in the data folder, the work dir holds the checkpoints of
            another training, or ``epochs`` is not positive.
    """
    if args.epochs is not None and args.epochs < 1:
        raise UserError(f'--epochs: a number from 1 on is expected, not {args.epochs}.')
    _check_work_dir(args.work_dir)
    begin = time.monotonic()
    device, reason = find_device()
    print(f'Container-Light RetinaNet on generated shapes, with {reason}.')

    with _step(1, f'Generate pictures, boxes and masks in {args.data_dir}', 'half a minute'):
        _generate(args.data_dir, args.smoke)

    # What mmengine's get_device() returns; a config or Runner has no argument for it.
    mmengine.device.utils.DEVICE = device
    duration = 'one or two minutes' if device == 'cuda' else 'about 8 minutes on 2 cores'
    with _step(2, 'Train from random weights', 'seconds' if args.smoke else duration):
        runner = _build(args)
        runner.train()

    with _step(3, 'Evaluate on images that were not trained on', '10 seconds'):
        metrics = runner.test()
        if 'coco/bbox_mAP' not in metrics:
            raise UserError('The trained model detects nothing at all, so there is no AP: the '
                            f'training diverged (see the log in {runner.log_dir}), or was far too '
                            'short.')

    with _step(4, 'Draw curves and detections', '5 seconds'):
        curves, sheet = _draw(runner, metrics)

    checkpoint = Path(short_path(runner.work_dir)) / f'epoch_{runner.max_epochs}.pth'
    print(f'\nDone in {(time.monotonic() - begin) / 60:.1f} minutes. '
          f'Box AP (COCO, IoU 0.50:0.95) on held-out images: {metrics["coco/bbox_mAP"]:.3f}\n'
          f'  curves:      {curves}\n  detections:  {sheet}\n  checkpoint:  {checkpoint}\n'
          f'  log:         {short_path(runner.log_dir)}')
    _print_next(args, str(checkpoint))
    return metrics
