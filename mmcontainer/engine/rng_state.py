"""Exact resumption: random number generators are part of the training state."""
import random
from functools import partial
from typing import Any, Callable, Optional

import numpy as np
import torch
from mmengine.dataset import worker_init_fn as mmengine_worker_init_fn
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from .checkpoint_hook import is_checkpoint_due

_KEY = 'rng_state'


def get_rng_state() -> dict[str, Any]:
    """Return the state of Python's, NumPy's, and PyTorch's CPU and current CUDA generator.

    Returns:
        dict: Tensors and numbers only, so that ``torch.load(weights_only=True)`` reads it.
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = dict(
        python=dict(version=version, words=torch.tensor(words), gauss=gauss),
        numpy=dict(keys=torch.from_numpy(keys.astype(np.int64)), position=int(position),
                   has_gauss=int(has_gauss), cached=float(cached)),
        torch=torch.get_rng_state(),
        cuda=None)
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Undo :func:`get_rng_state`; tensors may lie on any device."""
    python, numpy = state['python'], state['numpy']
    random.setstate((python['version'], tuple(python['words'].tolist()), python['gauss']))
    keys = numpy['keys'].cpu().numpy().astype(np.uint32)
    np.random.set_state(
        ('MT19937', keys, numpy['position'], numpy['has_gauss'], numpy['cached']))
    torch.set_rng_state(state['torch'].cpu())
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def seed_worker(worker_id: int, seed: int, epoch: int, rank: int,
                inner: Optional[Callable[[int], None]] = None) -> None:
    """Seed one dataloader worker with a stream of its own per (seed, epoch, rank, worker).

    MMEngine seeds worker i with ``seed + i`` in every epoch, so every epoch augments alike.

    Args:
        worker_id (int): Number of the worker in its dataloader.
        seed (int): Seed of the run.
        epoch (int): Epoch that starts.
        rank (int): Process.
        inner (Callable, optional): The initialiser that the dataloader was built with.
    """
    # MMEngine's own seeds (and filters warnings): ours must follow. One the user wrote comes last.
    is_default = isinstance(inner, partial) and inner.func is mmengine_worker_init_fn
    if inner is not None and is_default:
        inner(worker_id)
    words = np.random.SeedSequence([seed, epoch, rank, worker_id]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))
    if inner is not None and not is_default:
        inner(worker_id)


@HOOKS.register_module()
class RNGStateHook(Hook):
    """Save and restore the random number generators, so that a resumed run equals an unbroken one.

    ::

        epoch k:  restore R(k-1) | start workers with seed (seed, k, rank, worker) | train
                  -> snapshot R(k) of every rank -> checkpoint (holds R(k)) -> validation

    Each epoch starts from the snapshot of the one before, in memory or out of the checkpoint, so
    what validation draws has no influence on training. Workers are started anew for every epoch,
    also with ``persistent_workers=True``: a worker that lives on would go on with a stream that no
    checkpoint can hold. That costs a fork per worker and epoch. The seed of the sampler, which
    MMEngine draws anew in a resumed run unless ``randomness.seed`` is set, is restored too.

    What is exact: on the CPU, all of an epoch based training that is resumed from an end of epoch
    with as many processes and workers. On a GPU the generators are as exact, but kernels that add
    in any order are not.

    What is not: MMEngine restarts the epoch when an epoch based training is resumed from a
    checkpoint that ``by_epoch=False`` wrote in the middle of one (the hook warns), and in iteration
    based training it skips data in ways that differ between its versions: there only the generators
    of the main process are restored, which covers drop path. Gradients that had been accumulated
    for a step that was yet to come are in no checkpoint: let ``accumulative_counts`` divide the
    iterations of an epoch.

    ``dict(type='RNGStateHook')`` among the ``custom_hooks`` of a config adds it.
    """

    # After all hooks that prepare an epoch, before CheckpointHook (VERY_LOW) saves.
    priority = 'LOW'

    def __init__(self):
        self._snapshot: Optional[dict[str, Any]] = None
        self._resumed_from: dict[str, Any] = {}  # a snapshot
        self._resumed = False  # and no epoch or iteration has started since
        self._is_training = False

    @staticmethod
    def _samplers(dataloader) -> list[Any]:
        candidates = (dataloader.sampler, getattr(dataloader.batch_sampler, 'sampler', None))
        return [sampler for sampler in candidates
                if isinstance(getattr(sampler, 'seed', None), int)]

    def _take_snapshot(self, runner, iteration: int, into_epoch: int) -> None:
        # On all ranks: only the main process gets to save a checkpoint, and it cannot ask then.
        samplers = self._samplers(runner.train_dataloader)
        self._snapshot = dict(
            iter=iteration,
            into_epoch=into_epoch,
            epoch_length=len(runner.train_dataloader),
            ranks=all_gather_object(get_rng_state()),
            sampler_seeds=[sampler.seed for sampler in samplers])

    def _snapshot_iter(self) -> Optional[int]:
        return None if self._snapshot is None else self._snapshot['iter']

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Put the snapshot into the checkpoint, if it is of the same iteration."""
        if self._snapshot_iter() == checkpoint['meta']['iter']:
            checkpoint[_KEY] = self._snapshot

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Take the snapshot out of a checkpoint that training resumes from."""
        if not runner._resume:  # fine-tuning: weights only
            return
        snapshot = checkpoint.get(_KEY)
        self._resumed_from = snapshot or {}
        if snapshot is None:
            runner.logger.warning(
                'This checkpoint holds no state of the random number generators: augmentation and '
                'drop path continue with other draws than in an unbroken run.')
        elif len(snapshot['ranks']) != get_world_size():
            runner.logger.warning(
                f'This checkpoint was written by {len(snapshot["ranks"])} processes and is resumed '
                f'by {get_world_size()}: augmentation and drop path continue with other draws than '
                'in an unbroken run.')
        else:
            self._snapshot = snapshot
        self._resumed = True

    def before_train_epoch(self, runner) -> None:
        """Restore the generators and start the workers of this epoch."""
        dataloader = runner.train_dataloader
        self._is_training = True
        if self._snapshot is not None:
            for sampler, seed in zip(self._samplers(dataloader), self._snapshot['sampler_seeds']):
                sampler.seed = seed
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._warn_mid_epoch(runner)
            self._resumed = False
            inner = dataloader.worker_init_fn
            if isinstance(inner, partial) and inner.func is seed_worker:  # of the epoch before
                inner = inner.keywords['inner']
            dataloader.worker_init_fn = partial(
                seed_worker, seed=runner.seed, epoch=runner.epoch, rank=get_rank(), inner=inner)
            # Drops persistent workers; mmdet's YOLOXModeSwitchHook restarts them the same way.
            dataloader._iterator = None
        self._restore()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Undo what iteration based training drew to find its place in the data after a resume."""
        # Without workers the batch at hand was drawn by the restored generators: leave them.
        if self._resumed and runner.train_dataloader.num_workers > 0:
            self._restore()
        self._resumed = False

    def _restore(self) -> None:
        if self._snapshot is not None:
            set_rng_state(self._snapshot['ranks'][get_rank()])

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Take a snapshot where a checkpoint is due in the middle of an epoch."""
        if is_checkpoint_due(runner, by_epoch=False):
            self._take_snapshot(runner, runner.iter + 1, batch_idx + 1)

    def before_val(self, runner) -> None:
        """Take a snapshot for the checkpoint that a validation may find to be the best."""
        if self._is_training and self._snapshot_iter() != runner.iter:
            self._take_snapshot(runner, runner.iter, runner.iter)

    def after_train(self, runner) -> None:
        self._is_training = False

    def after_train_epoch(self, runner) -> None:
        """Take the snapshot that the next epoch starts from."""
        self._take_snapshot(runner, runner.iter, 0)

    def _warn_mid_epoch(self, runner) -> None:
        """Say where a resumed epoch cannot go on exactly where the checkpoint was written."""
        if not self._resumed:
            return
        now = len(runner.train_dataloader)
        then, done = (self._resumed_from.get(key) for key in ('epoch_length', 'into_epoch'))
        if done:
            runner.logger.warning(
                f'The checkpoint was written {done} iterations into epoch {runner.epoch + 1}. '
                'MMEngine starts that epoch from its first image, so losses differ from those of '
                'an unbroken run and the learning rate schedule runs ahead. Resume from an end of '
                'epoch, and write checkpoints by epoch, to avoid it.')
        elif then not in (None, now):
            runner.logger.warning(
                f'An epoch had {then} iterations when the checkpoint was written and has {now} '
                'now (another batch size, number of processes or data set): schedules by '
                'iteration, warm-up among them, do not go on where they were.')
