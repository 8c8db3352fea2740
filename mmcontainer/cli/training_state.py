"""Whether a checkpoint holds the whole state of a training of this very model."""
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import EMAHook
from torch import Tensor

from ..checkpoints import find_problems
from ..checkpoints.tensors import check_numbers, some
from ..engine.deploy import unwrap
from ..errors import UserError

# What MMEngine writes beside the weights, without which training cannot go on as it was.
_PARTS = ('meta', 'message_hub', 'optimizer')
_AVERAGES, _MODULE = 'ema_state_dict', 'module.'


def check_training_state(runner, content: Mapping[str, Any], checkpoint: str) -> None:
    """Check all that a training goes on with, besides its weights.

    Args:
        runner (Runner): Its optimizer is built if it was not yet.
        content (Mapping): Content of the checkpoint.
        checkpoint (str): Its name, for messages.

    Raises:
        UserError: Parts missing, or of another model, optimizer or schedule.
    """
    _check_parts(runner, content, checkpoint)
    _check_averages(runner, content, checkpoint)
    _check_optimizer(runner, content['optimizer'], checkpoint)


def _check_parts(runner, content: Mapping[str, Any], checkpoint: str) -> None:
    missing = [key for key in _PARTS if not isinstance(content.get(key), Mapping)]
    missing += [f'meta.{key}' for key in ('epoch', 'iter')
                if 'meta' not in missing and type(content['meta'].get(key)) is not int]
    schedulers, saved = runner.param_schedulers, content.get('param_schedulers')
    if isinstance(schedulers, Mapping) and 'type' in schedulers:
        schedulers = [schedulers]
    if schedulers and (not isinstance(saved, (Mapping, Sequence))
                       or len(saved) != len(schedulers)):
        missing.append(f'param_schedulers, {len(schedulers)} of them')
    if missing:
        raise UserError(
            f'--resume: {checkpoint} holds weights, but not the state of a training (missing: '
            f'{", ".join(missing)}). Resume from a file that tools/train.py wrote; to start a new '
            f'training from these weights use --cfg-options load_from={checkpoint}.')


def _check_averages(runner, content: Mapping[str, Any], checkpoint: str) -> None:
    """MMEngine keeps averaged weights as 'state_dict', and those in training beside them."""
    trained = content.get(_AVERAGES)
    if trained is None:
        return  # EMAHook, if there is one, says that it starts anew
    if not any(isinstance(hook, EMAHook) for hook in runner.hooks):
        raise UserError(
            f'--resume: {checkpoint} was written with EMAHook, which this config does not have: '
            "training would go on from averaged weights. Add dict(type='EMAHook') to custom_hooks "
            'as the training had it.')
    if isinstance(trained, Mapping):
        trained = {key[len(_MODULE):]: value for key, value in trained.items()
                   if isinstance(key, str) and key.startswith(_MODULE)}
    if not isinstance(trained, Mapping) or not all(
            isinstance(value, Tensor) for value in trained.values()):
        raise UserError(f'--resume: {_AVERAGES} of {checkpoint} holds no tensors by name.')
    try:
        check_numbers(trained)
    except ValueError as error:
        raise UserError(f'--resume: {_AVERAGES} of {checkpoint}: {error}') from error
    problems = find_problems(unwrap(runner.model).state_dict(), trained)
    if problems:
        raise UserError(f'--resume: {_AVERAGES} of {checkpoint} is of another model: ' + '; '.join(
            f'{len(keys)} {kind}: {some(keys)}' for kind, keys in problems.items()))


def _check_optimizer(runner, saved: Mapping[str, Any], checkpoint: str) -> None:
    """Check that the optimizer's state belongs to the parameters of this model."""
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if not hasattr(runner.optim_wrapper, 'optimizer'):
        return  # several optimizers by name: their own loading checks them
    groups = runner.optim_wrapper.optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group['params']]
    sizes = [len(group['params']) for group in groups]
    try:
        found = [len(group['params']) for group in saved['param_groups']]
        reshaped = [index for index, state in saved['state'].items()
                    if index < len(parameters) and any(
                        isinstance(value, Tensor) and value.ndim and value.shape
                        != parameters[index].shape for value in state.values())]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f'--resume: the state of the optimizer in {checkpoint} is none that '
                        'PyTorch wrote. Resume from a file that tools/train.py wrote.') from error
    if sizes != found or reshaped:
        raise UserError(
            f'--resume: the state of the optimizer in {checkpoint} is not one of this config: '
            f'{len(found)} groups of {sum(found)} parameters, {len(sizes)} groups of {sum(sizes)} '
            f'expected; {len(reshaped)} have another shape. paramwise_cfg, frozen stages or the '
            'optimizer were changed: resume with the config of the training, or start a new one '
            f'with --cfg-options load_from={checkpoint}.')
