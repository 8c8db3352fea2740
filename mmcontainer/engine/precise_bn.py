"""Exact statistics of batch norms before a model is evaluated or saved."""
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import ConfigError
from ..torch_compat import nothing_compiled
from .checkpoint_hook import is_checkpoint_due
from .deploy import unwrap
from .rng_state import get_rng_state, seed_worker, set_rng_state


class _Moments:
    """Mean and mean square of what one batch norm sees, averaged over the calls of its forward."""

    def __init__(self, norm: nn.Module):
        self.norm = norm
        zeros = torch.zeros_like(norm.running_mean, dtype=torch.float64)
        self.mean, self.square, self.count = zeros, zeros.clone(), zeros.new_zeros(1)
        self._handle = norm.register_forward_pre_hook(self._add)

    def _add(self, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        if x.numel() == 0:  # a head without a single region
            return
        x = x if x.dtype == torch.float64 else x.float()
        dims = [dim for dim in range(x.dim()) if dim != 1]
        var, mean = torch.var_mean(x, dims, correction=0)
        var, mean = var.double(), mean.double()
        self.mean += mean
        self.square += var + mean**2
        self.count += 1

    def remove(self) -> None:
        self._handle.remove()

    def tensors(self) -> list[Tensor]:
        return [self.mean, self.square, self.count]


@HOOKS.register_module()
class PreciseBNHook(Hook):
    r"""Replace running statistics of batch norms by exact ones before they are used.

    Running averages mix statistics of the last weights with those of older ones. Whenever a
    checkpoint is due, before each validation and at the end of training, this hook runs batches of
    training data through the model as in training (``mode='loss'``, norms in training mode), but
    without gradients, and gives each norm the mean and variance of all values of these batches,

    .. math:: \mu = \mathrm{E}_b[\mu_b], \quad
        \sigma^2 = \mathrm{E}_b[\sigma_b^2 + \mu_b^2] - \mu^2,

    with mean and (biased) variance :math:`\mu_b, \sigma_b^2` of batch b. Each batch of each process
    has the same weight. (detectron2 averaged :math:`\sigma_b^2`, unbiased, and so left out how
    batches differ, which is what matters for norms that see one value per image.)

    The checkpoint holds exactly the model that is evaluated. Training goes on with the new
    statistics, which it only updates and never reads. Nothing else changes: weights, gradients, all
    other buffers, the counters of the norms, norms in evaluation mode, the order of the training
    data, and the random number generators. Dropout and drop path stay on, as in training. The
    batches have a loader of their own on the same data set, with a seed that depends on the run and
    the iteration.

    Args:
        num_iters (int): Batches per process; all of an epoch if it has fewer.

    Raises:
        ValueError: If ``num_iters`` is not positive.
        ConfigError: At the start of training, together with ``EMAHook`` (whose average is another
            model) or without a ``train_dataloader`` config.

    Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (arXiv 2105.07576), section 3.
    """

    # After AverageBuffersHook (NORMAL), before RNGStateHook (LOW) and CheckpointHook (VERY_LOW).
    priority = 'BELOW_NORMAL'

    def __init__(self, num_iters: int = 200):
        if num_iters < 1:
            raise ValueError(f'num_iters of PreciseBNHook must be positive, got {num_iters}.')
        self.num_iters = num_iters
        self._in_training = False
        self._done_at = -1  # iterations trained when the statistics were last replaced

    def before_train(self, runner) -> None:
        """Refuse what cannot work before hours have gone into it."""
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise ConfigError('PreciseBNHook and EMAHook cannot be used together: the averaged '
                              'weights are evaluated, and these statistics are not theirs. Remove '
                              'one of them from custom_hooks.')
        config = runner._train_dataloader
        if not isinstance(config, dict) or not isinstance(config.get('sampler'), dict):
            raise ConfigError('PreciseBNHook builds a loader of its own, so train_dataloader and '
                              'its sampler must be configs, not objects.')
        self._in_training = True

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Update where a checkpoint is due after this iteration."""
        if is_checkpoint_due(runner, by_epoch=False):
            self._update_once(runner, runner.iter + 1)

    def after_train_epoch(self, runner) -> None:
        """Update where a checkpoint is due after this epoch."""
        if is_checkpoint_due(runner, by_epoch=True):
            self._update_once(runner, runner.iter)

    def before_val(self, runner) -> None:
        """Update before a validation during training."""
        if self._in_training:
            self._update_once(runner, runner.iter)

    def after_train(self, runner) -> None:
        """Update a model that was neither saved nor validated after its last iteration."""
        self._update_once(runner, runner.iter)
        self._in_training = False

    def _update_once(self, runner, iteration: int) -> None:
        if self._done_at == iteration:
            return
        self._done_at = iteration
        model = unwrap(runner.model)
        was_training = model.training
        if not was_training:
            model.train()
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training
                 and m.track_running_stats]
        if norms:
            self._update(runner, model, norms, iteration)
        else:
            runner.logger.info('PreciseBNHook has nothing to do: all batch norms are frozen.')
        if not was_training:
            model.eval()

    def _update(self, runner, model: nn.Module, norms: list[nn.Module], iteration: int) -> None:
        loader = self._build_loader(runner, iteration)
        steps = min(self.num_iters, len(loader))
        runner.logger.info(f'Exact statistics of {len(norms)} batch norms out of {steps} batches '
                           'per process ...')
        with _untouched(model):
            moments = [_Moments(norm) for norm in norms]
            try:
                for batch in islice(loader, steps):
                    with torch.no_grad(), runner.optim_wrapper.optim_context(model):
                        model._run_forward(model.data_preprocessor(batch, True), mode='loss')
            finally:
                for moment in moments:
                    moment.remove()
        _store(moments)
        unused = sum(moment.count.item() == 0 for moment in moments)
        if unused:
            runner.logger.info(f'{unused} of them saw no data and keep their statistics.')

    @staticmethod
    def _build_loader(runner, iteration: int) -> DataLoader:
        """A loader like the training's, sharing its data set but no state."""
        config, training = runner._train_dataloader, runner.train_dataloader
        seed = runner.seed + iteration
        sampler = DATA_SAMPLERS.build(
            config['sampler'], default_args=dict(dataset=training.dataset, seed=seed))
        batches: dict[str, Any] = dict(
            batch_size=config.get('batch_size', 1), sampler=sampler, drop_last=training.drop_last)
        if config.get('batch_sampler') is not None:
            batches = dict(batch_sampler=DATA_SAMPLERS.build(
                config['batch_sampler'],
                default_args=dict(sampler=sampler, batch_size=config['batch_size'])))
        return DataLoader(
            training.dataset, **batches, num_workers=training.num_workers,
            collate_fn=training.collate_fn, pin_memory=training.pin_memory,
            worker_init_fn=partial(
                seed_worker, seed=runner.seed, epoch=iteration, rank=get_rank()))


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Put random number generators and all buffers back afterwards; run nothing compiled.

    Compiled code would not call hooks that were added to its modules later.
    """
    rng_state = get_rng_state()
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with nothing_compiled():
            yield
    finally:
        for buffer, original in buffers:
            buffer.copy_(original)
        set_rng_state(rng_state)


@torch.no_grad()
def _store(moments: list[_Moments]) -> None:
    """Give the norms their mean and variance over the batches of all processes."""
    tensors = [tensor for moment in moments for tensor in moment.tensors()]
    total = torch.cat(tensors)
    all_reduce(total)
    for tensor, summed in zip(tensors, total.split([len(t) for t in tensors])):
        tensor.copy_(summed)
    for moment in moments:
        if moment.count == 0:
            continue
        mean = moment.mean / moment.count
        moment.norm.running_mean.copy_(mean)
        moment.norm.running_var.copy_((moment.square / moment.count - mean**2).clamp_(min=0))
