"""Settings of a config that MMEngine ignores, or that fail after the data was read."""
import importlib
import math
import re
from collections.abc import Iterator
from importlib.util import find_spec
from numbers import Real
from typing import Any, NamedTuple, Optional

from mmengine.registry import MODELS

from ..compat import current_stack
from ..errors import UserError, did_you_mean

_SCOPES = ('mmengine', 'mmdet', 'mmpretrain', 'mmseg')
# Libraries that a stack need not have, and what of each fits which stack.
OPTIONAL = {'mmseg': {'onedl': 'onedl-mmsegmentation==1.4.2', 'upstream': 'mmsegmentation==1.2.2'}}
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Arguments of torch's DataLoader that make no sense, and are errors, without worker processes.
_OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'multiprocessing_context')


# Top-level keys of MMDetection 2.x: the type of their values, and what takes their place.
_OLD_KEYS = {
    'optimizer': (dict, 'optim_wrapper = dict(optimizer=dict(...))'),
    'optimizer_config': (dict, 'optim_wrapper = dict(clip_grad=dict(max_norm=...), '
                               'accumulative_counts=...)'),
    'fp16': (dict, "optim_wrapper = dict(type='AmpOptimWrapper'), or --amp fp16"),
    'lr_config': (dict, 'param_scheduler = [...]'),
    'momentum_config': (dict, 'param_scheduler = [...]'),
    'runner': (dict, 'train_cfg = dict(max_epochs=..., val_interval=...)'),
    'total_epochs': (int, 'train_cfg = dict(max_epochs=...)'),
    'total_iters': (int, "train_cfg = dict(type='IterBasedTrainLoop', max_iters=...)"),
    'data': (dict, 'train_dataloader, val_dataloader and test_dataloader = dict(batch_size=..., '
                   'num_workers=..., dataset=dict(...))'),
    'evaluation': (dict, 'val_evaluator = dict(metric=...), train_cfg = dict(val_interval=...) and '
                         'default_hooks = dict(checkpoint=dict(save_best=...))'),
    'checkpoint_config': (dict, 'default_hooks = dict(checkpoint=dict(interval=...))'),
    'log_config': (dict, 'default_hooks = dict(logger=dict(interval=...)) and visualizer = '
                         'dict(vis_backends=[...])'),
    'resume_from': (str, '--resume FILE'),
    'seed': (int, 'randomness = dict(seed=...)'),
}


def _looks_old(key: str, value: Any) -> bool:
    """Tell values of 2.x from those of a variable that happens to have the same name."""
    if key == 'data' and isinstance(value, dict):
        return 'samples_per_gpu' in value or any(isinstance(part, dict) for part in value.values())
    return isinstance(value, _OLD_KEYS[key][0])


def how_to_install(library: str) -> str:
    """The command that installs one of ``OPTIONAL`` beside what is installed."""
    return f'pip install {OPTIONAL[library][current_stack()]} (docs/segmentation.md)'


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


class _Count(NamedTuple):
    """A whole number of a config: at least ``least``, or ``never`` where that switches it off."""
    key: str
    least: int
    never: Optional[int] = None


_COUNTS = (
    _Count('train_cfg.max_epochs', 1), _Count('train_cfg.max_iters', 1),
    _Count('train_cfg.val_interval', 1),
    *(_Count(f'{loader}.batch_size', 1) for loader in _LOADERS),
    *(_Count(f'{loader}.num_workers', 0) for loader in _LOADERS),
    _Count('default_hooks.checkpoint.interval', 1, never=-1),
    _Count('default_hooks.checkpoint.max_keep_ckpts', 1, never=-1),
    _Count('default_hooks.logger.interval', 1),
    _Count('optim_wrapper.accumulative_counts', 1),
    _Count('auto_scale_lr.base_batch_size', 1))
_NOT_NEGATIVE = ('optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay')


def _values(node: Any) -> Iterator[Any]:
    """Everything below a node of a config."""
    children = node.values() if isinstance(node, dict) else node if isinstance(
        node, (list, tuple)) else ()
    for child in children:
        yield child
        yield from _values(child)


def _is_used(cfg, key: str) -> bool:
    """Tell whether a config file reads one of its variables, which then is the user's own."""
    value = cfg[key]
    if isinstance(value, dict) and any(
            value == other for name, node in cfg.items() if name != key
            for other in (node, *_values(node))):
        return True
    code = re.sub('#.*', '', cfg.text)
    return re.search(rf'[=*(\[,:+]\s*(_base_\.)?{key}\s*[,)\]}}.\[+\n]', code) is not None


def check_old_keys(cfg) -> None:
    """Refuse keys of MMDetection 2.x, which MMEngine would ignore.

    Args:
        cfg (Config): As read from its file, without options of the command line.

    Raises:
        UserError: All such keys, with what takes their place.
    """
    found = [f'  {key}: now {now}' for key, (_, now) in _OLD_KEYS.items()
             if key in cfg and _looks_old(key, cfg[key]) and not _is_used(cfg, key)]
    if found:
        raise UserError(f'{cfg.filename} sets keys of MMDetection 2.x, which would be ignored:\n'
                        + '\n'.join(found) + '\nMove them, and remove the old ones; one of a base '
                        'that you cannot change is removed by KEY = None.')


def _look_up(cfg, key: str) -> Any:
    """Value of a dotted key; None where it is not set."""
    node = cfg._cfg_dict
    for part in key.split('.'):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _wrong_counts(cfg) -> Iterator[str]:
    for count in _COUNTS:
        value = _look_up(cfg, count.key)
        if value is None or value == count.never:
            continue
        if not _is_number(value) or value != value // 1 or value < count.least:
            never = '' if count.never is None else f' (or {count.never}: no limit, or never)'
            yield (f'{count.key} is {value!r}; a whole number from {count.least} on is '
                   f'expected{never}.')
    for key in _NOT_NEGATIVE:
        value = _look_up(cfg, key)
        if value is not None and not (_is_number(value) and 0 <= value < math.inf):
            yield f'{key} is {value!r}; a number from 0 on is expected.'


def _wrong_scope(cfg) -> Iterator[str]:
    scope = cfg.get('default_scope')
    if isinstance(scope, str) and scope in OPTIONAL:
        try:
            importlib.import_module(scope)
        except (ImportError, AssertionError) as error:  # the latter if it refuses this mmcv
            yield (f'default_scope is {scope!r}, which cannot be imported ({error}): '
                   f'{how_to_install(scope)}.')
        return
    if scope is None or scope in MODELS.children:
        return
    if not isinstance(scope, str) or not scope.isidentifier() or find_spec(scope) is None:
        yield (f'default_scope is {scope!r}; the name of an installed library is expected, '
               f'{", ".join(map(repr, _SCOPES[1:]))} for example.'
               + did_you_mean(str(scope), _SCOPES, 1))


def check_values(cfg) -> None:
    """Check numbers and names that MMEngine takes as they are.

    Args:
        cfg (Config): With all options applied.

    Raises:
        UserError: All values that cannot be meant.
    """
    wrong = [*_wrong_scope(cfg), *_wrong_counts(cfg)]
    if wrong:
        raise UserError(f'{cfg.filename} (with its --cfg-options):\n'
                        + '\n'.join(f'  {line}' for line in wrong))


def import_custom_modules(cfg) -> None:
    """Import ``custom_imports``, and raise if one fails, even where the config allows that.

    Raises:
        ImportError: With the name of the module and what its import raised.
    """
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    for module in [imports] if isinstance(imports, str) else imports:
        try:
            importlib.import_module(module)
        except Exception as error:  # the module's own code runs: anything
            raise ImportError(
                f'custom_imports: {module!r} cannot be imported ({type(error).__name__}: {error}). '
                'Set PYTHONPATH to the folder that holds it, or take it out of the list.'
            ) from error


def without_workers(cfg) -> list[str]:
    """Drop what PyTorch refuses in a data loader without worker processes.

    Args:
        cfg (Config): ``{train,val,test}_dataloader`` are changed in place.

    Returns:
        list[str]: What was dropped, for the user to read.
    """
    notes = []
    for loader in _LOADERS:
        node = cfg.get(loader) or {}
        dropped = [key for key in _OF_WORKERS if node.get('num_workers') == 0 and node.get(key)]
        for key in dropped:
            del node[key]
        if dropped:
            notes.append(f'{loader}.num_workers=0: {", ".join(dropped)} dropped, which needs '
                         'worker processes.')
    return notes
