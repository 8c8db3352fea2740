"""Checks of what ``--resume`` goes on with.

The checkpoint has to hold the whole state of a training of this very model. MMEngine loads the
state of optimizer and schedulers over what the config says: learning rates, weight decay, momenta,
milestones and ends. A config that was changed there would have no effect, so it is refused.
Everything else of a config (data, hooks, clipping, ``max_epochs``) counts as it stands.
"""
import ast
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor

from ..checkpoints import find_problems
from ..checkpoints.tensors import check_numbers, some
from ..engine.deploy import unwrap
from ..errors import UserError
from ..type_names import type_name

# MMEngine writes these beside the weights; without them training cannot go on as it was.
_PARTS = ('meta', 'message_hub', 'optimizer')
_AVERAGES, _MODULE = 'ema_state_dict', 'module.'
# Keys of optim_wrapper that end up in the groups of parameters that the checkpoint holds.
_OF_OPTIMIZER = ('optimizer', 'paramwise_cfg', 'constructor')
_UNSET = 'not set'
_NAMES = {'inf': float('inf'), 'nan': float('nan')}


def _evaluate(node: ast.expr) -> Any:
    """The value of an expression of MMEngine's config text, without running any of it.

    Raises:
        ValueError: If it is anything but a literal, ``dict(...)`` or the name of a class.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        parts = [_evaluate(argument) for argument in node.args]
        named = {item.arg: _evaluate(item.value) for item in node.keywords if item.arg}
        return {key: value for part in (*parts, named) for key, value in part.items()}
    if isinstance(node, ast.Dict):
        return {_evaluate(key): _evaluate(value) for key, value in zip(node.keys, node.values)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_evaluate(item) for item in node.elts]
    if isinstance(node, ast.Name):
        return _NAMES.get(node.id, node.id)
    if isinstance(node, ast.Attribute):  # a class: its name is all that is compared
        return node.attr
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    return ast.literal_eval(node)


def read_config_text(text: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read top-level keys of a config as MMEngine writes it into checkpoints; no code is run.

    Args:
        text (str): ``Config.pretty_text``.
        keys (tuple[str]): Names to read; those that the text does not have are left out.

    Raises:
        ValueError: If the text is none that MMEngine wrote.
    """
    found = {}
    try:
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                name = statement.targets[0].id
                if name in keys:
                    found[name] = _evaluate(statement.value)
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f'no text of a config: {error}') from error
    return found


def _plain(node: Any, key: str = '') -> Any:
    """Nested dicts and lists for comparing; classes and their dotted names by their last name."""
    if isinstance(node, Mapping):
        return {name: _plain(value, name) for name, value in node.items()
                if name not in ('_scope_', '_delete_')}
    if isinstance(node, (list, tuple)):
        return [_plain(value) for value in node]
    return type_name(node) if key in ('type', 'constructor') or isinstance(node, type) else node


def _schedulers(cfg: Mapping) -> Any:
    """``param_scheduler`` with the ends that MMEngine fills in from the length of training."""
    found = cfg.get('param_scheduler')
    if isinstance(found, Mapping) and 'type' not in found:
        return found  # several optimizers by name
    loop = cfg.get('train_cfg') or {}
    epochs, iterations = loop.get('max_epochs'), loop.get('max_iters')
    last_iteration = f'the last iteration of {epochs} epochs' if iterations is None else iterations
    listed = [found] if isinstance(found, Mapping) else list(found or [])
    return [{'end': epochs if item.get('by_epoch', True) else last_iteration, **item}
            for item in listed]


def _settings(cfg: Mapping) -> dict[str, Any]:
    """Settings of a config that resuming takes from the checkpoint, {dotted key: value}."""
    wrapper = cfg.get('optim_wrapper') or {}
    scale = cfg.get('auto_scale_lr') or {}
    chosen = dict(
        optim_wrapper={key: wrapper.get(key) for key in _OF_OPTIMIZER},
        param_scheduler=_schedulers(cfg),
        auto_scale_lr=dict(enable=bool(scale.get('enable')),
                           base_batch_size=scale.get('base_batch_size') if scale.get('enable')
                           else None))
    return dict(_flatten(_plain(chosen)))


def _flatten(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) or isinstance(node, list) and any(
            isinstance(item, dict) for item in node):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            yield from _flatten(value, f'{path}.{key}' if path else str(key))
    elif node is not None:
        yield path, node


def _progress(old: Mapping, new: Mapping, epoch: int) -> Optional[str]:
    """A remark on a training that is finished, or that was made longer or shorter."""
    before, now = ((cfg.get('train_cfg') or {}).get('max_epochs') for cfg in (old, new))
    if isinstance(now, int) and epoch >= now:
        return (f'--resume: all {now} epochs of the config are done already. To train longer: '
                '--cfg-options train_cfg.max_epochs=...')
    if before is not None and now is not None and before != now:
        return (f'--resume: training lasts until epoch {now}, not {before}; the schedule of the '
                'learning rate stays as it was.')
    return None


def _images_per_iteration(cfg: Mapping, processes: int) -> int:
    return (cfg.get('train_dataloader') or {}).get('batch_size', 1) * processes


def _images_before(content: Mapping[str, Any]) -> Optional[int]:
    """Images per iteration of the training that wrote a checkpoint; None if it does not say."""
    try:
        old = read_config_text(content['meta']['cfg'], ('train_dataloader', ))
        return _images_per_iteration(old, len(content['rng_state']['ranks']))
    except (KeyError, TypeError, ValueError):
        return None


def check_resumed_settings(cfg: Mapping, content: Mapping[str, Any], checkpoint: str) -> None:
    """Check that optimizer and schedule of a config are those that a checkpoint brings along.

    Args:
        cfg (Config): Of the training that is about to go on.
        content (Mapping): Content of the checkpoint; ``meta['cfg']`` holds the text of its config.
            ``meta['config']``, which MMEngine would run as a program, is taken out.
        checkpoint (str): Its name, for messages.

    Raises:
        UserError: Which settings differ, in the file and in the config, and what to do.
    """
    meta = content['meta']
    meta.pop('config', None)
    keys = ('optim_wrapper', 'param_scheduler', 'auto_scale_lr', 'train_cfg')
    try:
        old = read_config_text(meta['cfg'], keys)
    except (KeyError, TypeError, ValueError):
        print_log(f'--resume: {checkpoint} does not say with which config it was trained. Its '
                  'learning rate, weight decay and schedule count, not those of the config.',
                  logger='current', level=logging.WARNING)
        return
    found, wanted = _settings(old), _settings(cfg)
    before = _images_before(content)
    if (cfg.get('auto_scale_lr') or {}).get('enable') and before is not None:
        key = 'auto_scale_lr, images per iteration'  # the scaled rate is in the checkpoint
        found[key], wanted[key] = before, _images_per_iteration(cfg, get_world_size())
    different = [key for key in {**found, **wanted}
                 if found.get(key, _UNSET) != wanted.get(key, _UNSET)]
    if not different:
        note = _progress(old, cfg, meta.get('epoch', 0))
        if note is not None:
            print_log(note, logger='current')
        return
    lines = [f'  {key}: {found.get(key, _UNSET)} in the checkpoint, {wanted.get(key, _UNSET)} in '
             'the config' for key in different]
    advice = ''
    if all(key.startswith('param_scheduler.') and key.endswith('.end') for key in different):
        advice = ('A schedule without an end lasts as long as the training. To train longer after '
                  'the old schedule, write its end into the config: '
                  f'{different[0]}={found.get(different[0])}. ')
    raise UserError(
        f'--resume: {checkpoint} goes on with the optimizer and the schedule stored in it, and '
        'those of this config are others, which would be ignored:\n' + '\n'.join(lines)
        + f'\n{advice}Set them back to go on; to train its weights further with new settings, '
        f'start a new training: --cfg-options load_from={checkpoint}, without --resume, in another '
        '--work-dir.')


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
    if not content['optimizer'].get('loss_scaler', True):
        content['optimizer'].pop('loss_scaler')  # of bfloat16, which does not scale; float16 may


def count_iterations(runner, content: Mapping[str, Any]) -> None:
    """Count iterations as if all epochs before had had the length that they have now.

    MMEngine takes the number in the checkpoint. With another batch size, number of processes or
    data set it passes that of the last iteration too early, and the gradients that are accumulated
    from then on are divided by another number.

    Args:
        runner (Runner): Its training loop has been built.
        content (Mapping): Content of the checkpoint; ``meta['iter']`` is changed, unless it was
            written in the middle of an epoch.
    """
    meta, state = content['meta'], content.get('rng_state') or {}
    if isinstance(runner.train_loop, EpochBasedTrainLoop) and not state.get('into_epoch') and (
            meta['iter'] % max(1, meta['epoch']) == 0):
        meta['iter'] = meta['epoch'] * len(runner.train_dataloader)


def _warn_of_frozen(parameters: Sequence[Tensor], trained: Sequence[int]) -> None:
    """Say which parameters were trained and are frozen now, or the reverse."""
    now = {index for index, parameter in enumerate(parameters) if parameter.requires_grad}
    changes = [(len(set(trained) - now), 'that were trained are frozen'),
               (len(now - set(trained)), 'that had no gradients are trained')]
    for number, what in changes if trained else ():
        if number:
            print_log(f'--resume: {number} parameters {what} now (frozen_stages, norm_eval, '
                      'requires_grad of norms; --from-scratch changes all of them, and has to be '
                      'given again if the training had it).', logger='current',
                      level=logging.WARNING)


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
    _warn_of_frozen(parameters, list(saved['state']))
