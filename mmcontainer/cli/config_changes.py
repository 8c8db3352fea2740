"""Changes and checks of a config before a runner is built."""
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.hooks import CheckpointHook
from mmengine.optim import AmpOptimWrapper

from ..checkpoints import check_file, resolve_path
from ..checkpoints.integrity import sha256
from ..checkpoints.official import missing_message
from ..config_nodes import SPLITS, constructor_arguments, find_class, iter_dicts
from ..engine.amp import CPUAmpOptimWrapper, gpu_has_bfloat16
from ..engine.checkpoint_hook import SafeCheckpointHook
from ..errors import UserError
from ..type_names import LOADING_TYPES, type_name

_NOT_FROZEN = dict(norm_eval=False, frozen_stages=-1)


def set_work_dir(cfg, work_dir: Optional[str], config_name: str) -> None:
    """Choose where logs and checkpoints go: ``work_dir``, the config's own, or work_dirs/NAME."""
    if work_dir is not None:
        cfg.work_dir = str(Path(work_dir).expanduser())
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', Path(config_name.split('::')[-1]).stem)


def set_loader_defaults(cfg) -> None:
    """Let the workers stack images, as MMPretrain's own tools do where a config says nothing.

    MMEngine's default hands over lists, which leaves normalising and stacking 128 images, one by
    one, to the main process. Detectors need lists, because their images differ in size.

    Args:
        cfg (Config): Changed in place if it is MMPretrain's: ``{train,val,test}_dataloader``.
    """
    if cfg.get('default_scope') != 'mmpretrain':
        return
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())


def _init_cfgs(path: str, node: dict) -> list[dict]:
    """The entries of a module's ``init_cfg``; UserError for one that is no dict with a type."""
    value = node.get('init_cfg') or []
    entries = list(value) if isinstance(value, (list, tuple)) else [value]
    for entry in entries:
        loads = isinstance(entry, dict) and type_name(entry.get('type')) in LOADING_TYPES
        if not isinstance(entry, dict) or 'type' not in entry or (
                loads and not isinstance(entry.get('checkpoint'), str)):
            raise UserError(f"{path}.init_cfg: dict(type='StrictPretrained', checkpoint='FILE'), "
                            f'or None, is expected, found {entry!r}.')
    return entries


def _pretrained(cfg) -> Iterator[tuple[str, str, str]]:
    """Module, type and checkpoint of every ``init_cfg`` that loads one."""
    for path, node in list(iter_dicts(cfg.model, 'model')):
        for init_cfg in _init_cfgs(path, node):
            kind = type_name(init_cfg.get('type'))
            if kind in LOADING_TYPES:
                yield path, kind, init_cfg['checkpoint']


def check_pretrained(cfg) -> None:
    """Check that pretrained weights are there, before minutes go into reading the data.

    Raises:
        UserError: Where the official file is, how to convert it, and how to do without.
        CorruptCheckpointError: A file that is not whole.
    """
    for path, kind, checkpoint in _pretrained(cfg):
        if kind != 'StrictPretrained':
            if '://' not in checkpoint and not Path(checkpoint).expanduser().is_file():
                raise UserError(f'{path}.init_cfg: there is no file {checkpoint}.')
            continue
        try:
            check_file(resolve_path(checkpoint))
        except FileNotFoundError as error:
            message = missing_message(checkpoint)
            several = f'{error}\n' if 'several' in str(error) else ''
            raise UserError(several + message) from error


def weight_hashes(cfg) -> dict[str, str]:
    """SHA-256 (16 digits) of every file that ``StrictPretrained`` reads, by the config's name."""
    return {checkpoint: sha256(resolve_path(checkpoint))[:16]
            for _, kind, checkpoint in _pretrained(cfg) if kind == 'StrictPretrained'}


def _default(node: dict, key: str, cfg) -> Any:
    """Default of an argument; for one that is not accepted, what means "not frozen"."""
    cls = find_class(node.get('type'), cfg.get('default_scope', 'mmengine'))
    parameter = constructor_arguments(cls)[0].get(key) if cls is not None else None
    return parameter.default if parameter is not None else _NOT_FROZEN[key]


def train_from_scratch(cfg) -> list[str]:
    """Give up pretrained weights, and train what only makes sense frozen with them.

    Frozen batch norms with the statistics of no data set at all (mean 0, variance 1) and frozen
    random stages would ruin the model, so they are trained.

    Args:
        cfg (Config): Changed in place: every ``init_cfg`` that loads weights in ``model``,
            ``load_from``, and ``norm_cfg.requires_grad``, ``norm_eval`` and ``frozen_stages`` of
            the backbone.

    Returns:
        list[str]: What changed, one line each, for the user to read.
    """
    changes = []

    def change(path: str, node: dict, key: str, value) -> None:
        old = node.get(key, 'its default')
        if old != value:
            changes.append(f'{path}.{key}: {old} -> {value}'.lstrip('.'))
            node[key] = value

    for path, node in list(iter_dicts(cfg.model, 'model')):
        entries = _init_cfgs(path, node)
        kept = [init_cfg for init_cfg in entries
                if type_name(init_cfg.get('type')) not in LOADING_TYPES]
        if len(kept) != len(entries):
            change(path, node, 'init_cfg', kept or None)
        if node.get('pretrained'):
            change(path, node, 'pretrained', None)
        if path.split('.')[-1] != 'backbone':
            continue
        if isinstance(node.get('norm_cfg'), dict):
            change(f'{path}.norm_cfg', node.norm_cfg, 'requires_grad', True)
        for key, value in _NOT_FROZEN.items():
            # By default ResNet freezes its statistics: leaving norm_eval out is not enough.
            if node.get(key, _default(node, key, cfg)) != value:
                change(path, node, key, value)
    if cfg.get('load_from') is not None:
        change('', cfg, 'load_from', None)
    return changes


def scale_lr(cfg) -> str:
    """Turn on MMEngine's linear scaling of the learning rate with the batch size.

    Returns:
        str: What will happen, and a warning where the rule does not hold.
    """
    settings = cfg.get('auto_scale_lr') or {}
    settings.setdefault('base_batch_size', 16)
    settings['enable'] = True
    cfg.auto_scale_lr = settings
    text = ('--auto-scale-lr: the learning rate is multiplied by (images per iteration) / '
            f'{settings["base_batch_size"]}.')
    optimizer = type_name((cfg.get('optim_wrapper') or {}).get('optimizer', {}).get('type'))
    if 'Adam' in optimizer:
        text += (f' Beware: this linear rule is made for SGD. For {optimizer} it is not '
                 'established (square-root scaling is common), so check the loss of the first '
                 'epoch.')
    return text


def scratch_advice(cfg) -> list[str]:
    """Say what makes it hard for a two-stage detector to learn from random weights.

    It is advice only: norms in the neck and other heads make another model than the config's.

    Args:
        cfg (Config): A config whose pretrained weights have been given up; not changed.

    Returns:
        list[str]: One line if ``model`` has a ``roi_head`` and the neck or a head of its own has
        no norms, or if its mask head starts far from a prediction of one half; else nothing.
    """
    if not cfg.model.get('roi_head'):
        return []
    parts = [('model.neck', cfg.model.get('neck') or {})]
    parts += [(path, node) for path, node in iter_dicts(cfg.model.roi_head, 'model.roi_head')
              if node.get('num_classes') is not None]
    without = [path for path, node in parts if node and not node.get('norm_cfg')]
    large = [path for path, node in parts
             if type_name(node.get('type')) == 'FCNMaskHead' and node.num_classes < 80]
    found = [f'no norms in {", ".join(without)}'] if without else []
    found += [f'the first loss of {", ".join(large)} is too large'] if large else []
    if not found:
        return []
    return [f'made for pretrained weights: {"; ".join(found)} '
            '(see docs/numerics.md, "Mask R-CNN from random weights")']


def check_precision(cfg) -> None:
    """Check that the precision which a config itself asks for is possible on this machine.

    Raises:
        UserError: MMEngine's AmpOptimWrapper without a GPU, which it would refuse after the data
            was read.
    """
    kind = type_name((cfg.get('optim_wrapper') or {}).get('type'))
    if kind == AmpOptimWrapper.__name__ and not torch.cuda.is_available():
        raise UserError('optim_wrapper.type of the config is AmpOptimWrapper, which needs a CUDA '
                        'GPU, and none was found: on the CPU use --amp bf16, or --cfg-options '
                        'optim_wrapper.type=OptimWrapper and no loss_scale or dtype.')


def apply_amp(cfg, precision: str) -> None:
    """Train in mixed precision.

    Args:
        cfg (Config): Config whose ``optim_wrapper`` is changed in place.
        precision (str): 'fp16' (with dynamic loss scaling, GPU only) or 'bf16' (GPU or CPU).

    Raises:
        UserError: If the machine cannot, or the config has an optimizer wrapper of another kind.
    """
    has_cuda = torch.cuda.is_available()
    if precision == 'fp16' and not has_cuda:
        raise UserError('--amp fp16 needs a CUDA GPU, and none was found: on the CPU use --amp '
                        'bf16, or train without --amp.')
    if precision == 'bf16' and has_cuda and not gpu_has_bfloat16():
        raise UserError(f'--amp bf16: {torch.cuda.get_device_name()} has no bfloat16; '
                        'use --amp fp16.')
    wrapper = cfg.get('optim_wrapper')
    if wrapper is None:
        raise UserError('--amp: the config has no optim_wrapper, so there is nothing to train.')
    known = ('OptimWrapper', 'AmpOptimWrapper', CPUAmpOptimWrapper.__name__)
    kind = type_name(wrapper.get('type', known[0]))
    if kind not in known:
        raise UserError(f'--amp replaces one of {", ".join(known)}, but optim_wrapper.type of this '
                        f'config is {kind}: set its precision in the config.')
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(key, None)
    if has_cuda:
        wrapper.update(
            type='AmpOptimWrapper',
            dtype={'fp16': 'float16', 'bf16': 'bfloat16'}[precision],
            loss_scale='dynamic' if precision == 'fp16' else dict(enabled=False))
    else:
        wrapper.type = CPUAmpOptimWrapper.__name__


def use_safe_checkpoints(cfg) -> None:
    """Put :class:`SafeCheckpointHook` wherever a config has MMEngine's, in place."""
    if cfg.get('default_hooks') is None:
        cfg.default_hooks = {}
    if 'checkpoint' not in cfg.default_hooks:  # the runner would add MMEngine's
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    for hook in (*cfg.default_hooks.values(), *(cfg.get('custom_hooks') or [])):
        if type_name((hook or {}).get('type')) == CheckpointHook.__name__:
            hook['type'] = SafeCheckpointHook.__name__


def add_hook(cfg, name: str, **arguments) -> None:
    """Add a hook, with its arguments, to a config that does not have it yet."""
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(type_name(hook.get('type')) == name for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type=name, **arguments)]


def remove_hook(cfg, name: str) -> None:
    """Take a hook out of a config that has it."""
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or []
                        if type_name(hook.get('type')) != name]
