"""A hook that compares a running training with a published one."""
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from ..fileio import write_atomically
from .summary import batch_size, leaf_datasets

_COCO_FILE = 'instances_train2017.json'
_COCO_IMAGES = (117_000, 118_287)  # without those that are empty or tiny, and with them
_AP = {'bbox': 'AP', 'segm': 'mask AP'}


@HOOKS.register_module()
class OnTrackHook(Hook):
    """Say at the published points how far a training is from the published run.

    ::

        iteration 10000: loss 0.660, the published run had 0.651
        epoch 5: AP 24.1, the published run had 24.5

    The loss is the published statistic: by iteration the median of what detectron2 would log within
    500 iterations of the point (so the line comes 500 iterations later), by epoch the mean. It is
    that of all processes. Iterations have the images of the published ones, 16, whatever the number
    of GPUs and accumulated gradients. MMEngine's checkpoints hold the losses of the first process,
    so that a resumed training says what an unbroken one says.

    With every line the curves of this process are drawn over the published ones, into
    ``vis_data/on_track.png`` of its log folder. Trainings on other data than COCO train2017 are not
    compared, which the hook says once.

    ``tools/train.py`` adds the hook to the configs of this package of which numbers are published.
    In any other config, add ``dict(type='OnTrackHook', run='mask_rcnn/...')`` to ``custom_hooks``.
    A list of one's own starts with ``*_base_.custom_hooks``, because it replaces that of the base.

    Args:
        run (str): Name of a published run, see :func:`mmcontainer.paper.curves.load_curves`.

    Raises:
        ConfigError: If there is no such run.
    """

    # After LoggerHook (BELOW_NORMAL) has written what is drawn, before CheckpointHook (VERY_LOW).
    priority = 'LOW'

    def __init__(self, run: str):
        # Not at the top: `import mmcontainer` needs no reader of YAML.
        from ..paper.curves import find_run
        self.run = find_run(run)
        self._compares = False  # until training has begun

    def before_train(self, runner) -> None:
        """Decide whether numbers can be compared, and say so."""
        self._images = batch_size(runner.train_dataloader) * get_world_size()
        reason = self._why_not(runner)
        self._compares = reason is None
        if reason is not None:
            self._say(runner, f'Not compared with the published run {self.run.name}: {reason}.')
            return
        steps = sorted({*self.run.loss, *self.run.evaluations})
        unit = 'epoch' if self.run.by_epoch else 'iteration'
        shown = [*steps[:2], '...', steps[-1]] if len(steps) > 4 else steps
        self._say(runner, f'Compared with the published run {self.run.name} ({self.run.source}) at '
                          f'{unit} {", ".join(map(str, shown))}.' + self._other_batch(runner))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None,
                         outputs: Optional[dict] = None) -> None:
        """Report the loss at points whose last iteration this is."""
        if self._compares and not self.run.by_epoch:
            before, done = (self._published(iterations) for iterations in
                            (runner.iter, runner.iter + 1))
            self._report_losses(runner, [point for point in self.run.loss
                                         if before <= point + self.run.within < done],
                                runner.iter + 1)

    def after_train_epoch(self, runner) -> None:
        """Report the mean loss of an epoch."""
        epoch = runner.epoch + 1
        if not self._compares or not self.run.by_epoch or epoch not in self.run.loss:
            return
        losses = last_losses(runner, len(runner.train_dataloader))
        losses = losses[np.isfinite(losses)]
        if len(losses):
            self._report(runner, f'epoch {epoch}: loss {losses.mean():.2f}, the published run had '
                                 f'{self.run.loss[epoch]:.2f}')

    def after_val_epoch(self, runner, metrics: Optional[Mapping[str, float]] = None) -> None:
        """Report the AP of a validation during training."""
        step = self._evaluated_step(runner) if self._compares else None
        if step is None:
            return
        texts = [f'{text} {100 * metrics[f"coco/{kind}_mAP"]:.1f}, the published run had '
                 f'{self.run.evaluations[step][kind][0]:.1f}' for kind, text in _AP.items()
                 if kind in self.run.evaluations[step] and f'coco/{kind}_mAP' in (metrics or {})]
        if texts:
            unit = 'epoch' if self.run.by_epoch else 'iteration'
            self._report(runner, f'{unit} {step}: {"; ".join(texts)}')

    def after_train(self, runner) -> None:
        """Report the last losses, whose last iterations never come."""
        if self._compares and not self.run.by_epoch:
            done = self._published(runner.iter)
            self._report_losses(runner, [point for point in self.run.loss
                                         if point < done <= point + self.run.within], runner.iter)

    def _why_not(self, runner) -> Optional[str]:
        """Why a comparison would mean nothing; None if it means something."""
        dataset = runner.train_dataloader.dataset
        files = {os.path.basename(str(getattr(leaf, 'ann_file', None) or 'other data'))
                 for leaf in leaf_datasets(dataset)}
        low, high = _COCO_IMAGES
        if files != {_COCO_FILE} or not low <= len(dataset) <= high:
            return (f'it was trained on COCO train2017 ({_COCO_FILE}, {low} images or more), this '
                    f'one is on {", ".join(sorted(files))} with {len(dataset)} images')
        if self.run.by_epoch and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return 'its numbers are by epoch, and this training counts iterations'
        return None

    def _other_batch(self, runner) -> str:
        """What to know where iterations or steps differ from the published ones."""
        if self.run.by_epoch:
            return ''
        published = self.run.images
        step = self._images * (runner.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
        text = '' if self._images == published else (
            f' Its iterations have {published} images, those of this run {self._images}: '
            f'{published / self._images:g} here are one there.')
        return text if step == published else (
            f'{text} A step of the optimizer has {step} images instead of {published}, so expect '
            'other numbers.')

    def _published(self, iterations: int) -> int:
        """How many published iterations have the images of so many of this run."""
        return iterations * self._images // self.run.images

    def _evaluated_step(self, runner) -> Optional[int]:
        """The published evaluation that a validation now corresponds to."""
        if self.run.by_epoch:
            return runner.epoch if runner.epoch in self.run.evaluations else None
        return next((step for step in self.run.evaluations
                     if abs(self._published(runner.iter) - step) <= self.run.within), None)

    def _report_losses(self, runner, points: Iterable[int], iterations: int) -> None:
        for point in sorted(points):
            loss, published = self._loss_near(runner, point, iterations), self.run.loss[point]
            here = '' if self._images == self.run.images else (
                f' ({round(point * self.run.images / self._images)} of this run)')
            self._report(runner, f'iteration {point}{here}: ' + (
                f'loss {loss:.3f}, the published run had {published:.3f}' if loss is not None else
                f'the published run had a loss of {published:.3f}; this one was resumed from a '
                f'checkpoint that does not hold the losses of the iterations before'))

    def _loss_near(self, runner, point: int, iterations: int) -> Optional[float]:
        """The published statistic of the losses near a point; None if the first are not known."""
        every, images = self.run.every, self._images
        # The published iterations and the logged values are counted from 0, like ours.
        first_logged = -(-(point - self.run.within + 1) // every) - 1
        start = max(0, first_logged) * every * self.run.images // images
        losses = last_losses(runner, iterations - start)
        if len(losses) < iterations - start:
            return None
        published = -(-np.arange(start + 1, iterations + 1) * images // self.run.images) - 1
        is_finite = np.isfinite(losses)  # fp16 skips iterations that overflow
        published, losses = _reduce(published[is_finite], losses[is_finite], np.mean)
        logged, losses = _reduce(published // every, losses, np.median)
        near = losses[np.abs(logged * every + every - 1 - point) <= self.run.within]
        return float(np.median(near)) if len(near) else None

    @staticmethod
    def _say(runner, text: str) -> None:
        if is_main_process():
            runner.logger.info(text)

    def _report(self, runner, text: str) -> None:
        self._say(runner, text)
        if is_main_process():
            self._draw(runner)

    def _draw(self, runner) -> None:
        folder = Path(runner.log_dir, 'vis_data')
        picture = folder / 'on_track.png'
        try:
            # Not at the top: `import mmcontainer` needs no matplotlib.
            from ..visualization.curves import draw_curves
            write_atomically(picture, lambda path: draw_curves(
                folder / 'scalars.json', path, self.run.name, self._published_curve(runner)))
        except Exception as error:  # a picture is not worth days of training
            runner.logger.error(f'{picture} was not drawn: {type(error).__name__}: {error}')

    def _published_curve(self, runner) -> Any:
        """The published numbers by the steps that this run logs."""
        from ..visualization.curves import PublishedCurve
        if self.run.by_epoch:
            scale, first, ap_scale = len(runner.train_dataloader), 0, 1
        else:
            scale = ap_scale = self.run.images / self._images
            first = 1  # MMEngine logs the first iteration as 1
        return PublishedCurve(
            loss={(step + first) * scale: loss for step, loss in self.run.loss.items()},
            ap={f'coco/{kind}_mAP': {
                step * ap_scale: values[kind][0] / 100
                for step, values in self.run.evaluations.items() if kind in values}
                for kind in _AP})


def last_losses(runner, number: int) -> np.ndarray:
    """Total losses of the last iterations, means over all processes.

    MMEngine keeps and saves them, and resumes those of the first process everywhere.

    Args:
        runner (Runner): Of a training.
        number (int): Of iterations.

    Returns:
        np.ndarray: float64, (number, ), or fewer if no more are known.
    """
    history = runner.message_hub.log_scalars.get('train/loss')
    known = [] if history is None else history.data[0][-number:]
    losses = torch.tensor(known, dtype=torch.float64)
    if get_world_size() > 1:
        all_reduce(losses, 'mean')
    return losses.numpy()


def _reduce(keys: np.ndarray, values: np.ndarray,
            statistic: Callable[[np.ndarray], float]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, and a statistic of the values (N, ) that have each of them."""
    found = np.unique(keys)
    return found, np.array([statistic(values[keys == key]) for key in found])
