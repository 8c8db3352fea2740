"""A hook that stops a training that has diverged before anything of it is saved."""
import math
from typing import Optional

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS

from ..errors import UserError
from .checkpoint_hook import newest_checkpoint

# fp16 skips steps whose gradients overflow and lowers the scale of the loss. A search for the right
# scale takes fewer steps than these.
_PATIENCE_WITH_LOSS_SCALING = 20


@HOOKS.register_module()
class StopWhenDivergedHook(Hook):
    """Stop when a loss is NaN or infinite, and never save weights that are.

    Looks at every iteration: MMEngine's RuntimeInfoHook fetches every loss from the device in every
    iteration too, so this costs no time. MMDetection's CheckInvalidLossHook looks every
    ``interval`` iterations, so that a checkpoint saved in between may be worthless. Under fp16 with
    loss scaling, 20 iterations in a row may have such a loss. Several processes stop together.

    Raises:
        UserError: Which loss or weights, when, the last good checkpoint, and what to try.
    """

    # Before CheckpointHook (VERY_LOW) and whatever else acts on the iteration.
    priority = 'VERY_HIGH'

    def __init__(self):
        self._in_a_row = 0

    def after_train_iter(self, runner, batch_idx: int, data_batch=None,
                         outputs: Optional[dict] = None) -> None:
        """Check the losses of an iteration."""
        losses = {name: float(value.detach() if isinstance(value, torch.Tensor) else value)
                  for name, value in (outputs or {}).items() if 'loss' in name}
        bad = [f'{name} is {loss:g}' for name, loss in losses.items() if not math.isfinite(loss)]
        if get_world_size() > 1:
            anywhere = torch.tensor(float(bool(bad)))
            all_reduce(anywhere, 'max')
            bad = bad or ['a loss of another process is NaN or infinite'] * bool(anywhere)
        self._in_a_row = self._in_a_row + 1 if bad else 0
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        patience = _PATIENCE_WITH_LOSS_SCALING if scaler is not None and scaler.is_enabled() else 0
        if self._in_a_row > patience:
            when = f'at iteration {runner.iter + 1} (epoch {runner.epoch + 1})'
            self._stop(runner.work_dir, when, ', '.join(bad))

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check the weights that are about to be saved, and averages, which EMAHook adds later."""
        averages = [hook.ema_model.state_dict() for hook in runner.hooks
                    if isinstance(hook, EMAHook)]
        for weights in (checkpoint.get('state_dict', {}), *averages):
            bad = [name for name, value in weights.items()
                   if isinstance(value, torch.Tensor) and not value.isfinite().all()]
            if bad:
                self._stop(runner.work_dir, f'after iteration {checkpoint["meta"]["iter"]}',
                           f'{len(bad)} weights hold NaN or infinity, {bad[0]} for example')

    @staticmethod
    def _stop(work_dir: str, when: str, what: str) -> None:
        good = newest_checkpoint(work_dir)
        good = f'The last good checkpoint is {good}.' if good else 'No checkpoint was saved yet.'
        raise UserError(
            f'Training has diverged {when}: {what}. Nothing of it was saved. {good} Try a lower '
            'learning rate, a longer warm-up, optim_wrapper.clip_grad=dict(max_norm=...), no '
            '--amp; and look at the data (`mmcontainer check-data CONFIG`).')
