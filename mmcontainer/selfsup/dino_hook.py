"""What DINO does beside the steps of the optimizer."""
from collections.abc import Iterable
from typing import Optional

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor, nn

from ..engine.deploy import unwrap
from ..errors import ConfigError


def clip_each_tensor(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip the gradient of every parameter by itself, to an L2 norm of ``max_norm``.

    Args:
        parameters (Iterable[nn.Parameter]): With gradients, which are changed in place.
        max_norm (float): Largest norm.

    Returns:
        Tensor: The largest norm before clipping, a scalar.
    """
    return torch.stack([nn.utils.clip_grad_norm_([parameter], max_norm)
                        for parameter in parameters]).max()


@HOOKS.register_module()
class DINOHook(Hook):
    """Move the teacher after every step, clip tensor by tensor, and freeze the last layer at first.

    ``optim_wrapper.clip_grad=dict(max_norm=3.0)`` says how far every gradient is clipped; MMEngine
    would clip the norm of all of them together. Frozen means without gradient, so that there is
    neither decay nor a state of the optimizer.

    Args:
        freeze_last_layer (int): Epochs in which the last layer of the head is frozen.
        evaluates_untrained (bool): Validate once before the first step, to see what of the accuracy
            is due to the training; logged as epoch 0.

    Raises:
        ConfigError: The model is no DINO, ``clip_grad`` is missing or of another kind, or gradients
            are accumulated: batch norms, centre and teacher would see a part of the batch, which is
            another training.
    """

    def __init__(self, freeze_last_layer: int = 1, evaluates_untrained: bool = False):
        self.freeze_last_layer = freeze_last_layer
        self.evaluates_untrained = evaluates_untrained
        self._model: Optional[nn.Module] = None

    def before_train(self, runner) -> None:
        """Take over clipping and freezing."""
        model = unwrap(runner.model)
        if not hasattr(model, 'teacher'):
            raise ConfigError(f'DINOHook is for DINO, and the model is {type(model).__name__}.')
        wrapper = runner.optim_wrapper
        if wrapper._accumulative_counts != 1:
            raise ConfigError(
                'DINO cannot accumulate gradients (optim_wrapper.accumulative_counts='
                f'{wrapper._accumulative_counts}): batch norms, centre and teacher would see a '
                'part of the batch only. Use fewer images per step and --auto-scale-lr.')
        if set(wrapper.clip_grad_kwargs or {}) != {'max_norm'}:
            raise ConfigError(
                'DINO clips the L2 norm of every gradient, and freezes where it clips: set '
                "optim_wrapper.clip_grad=dict(max_norm=3.0), or float('inf') to clip nothing; "
                f'found {wrapper.clip_grad_kwargs}.')
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ConfigError(
                'The schedules of DINO count epochs (the last layer is frozen in the first, the '
                f'temperature of the teacher rises), which {type(runner.train_loop).__name__} does '
                "not tell: set train_cfg=dict(by_epoch=True, max_epochs=...).")
        if self.evaluates_untrained and runner.val_loop is None:
            raise ConfigError('evaluates_untrained=True of DINOHook needs val_dataloader, val_cfg '
                              'and val_evaluator.')
        self._model = model
        # Called right before the step, with unscaled gradients in every precision. Hooks of the
        # optimizer do not last: torch.compile of PyTorch 2.1 replaces its step without them.
        wrapper.clip_func = self._clip_and_freeze

    def before_train_epoch(self, runner) -> None:
        """Tell the model the epoch, on which the teacher's temperature depends."""
        self._model.epoch = runner.epoch
        if self.evaluates_untrained and runner.iter == 0:
            runner.val_loop.run()

    def _clip_and_freeze(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        norm = clip_each_tensor(parameters, max_norm)
        if self._model.epoch < self.freeze_last_layer:
            for parameter in self._model.head.last_layer.parameters():
                parameter.grad = None
        return norm

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Move the teacher."""
        self._model.teacher.update_parameters(self._model)
