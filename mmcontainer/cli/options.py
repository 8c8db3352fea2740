"""Checking ``--cfg-options``: MMEngine adds a misspelt key to the config and ignores it."""
import inspect
from difflib import get_close_matches
from typing import Optional

from mmengine.config import DictAction
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..config_nodes import constructor_arguments, find_class
from ..errors import UserError, did_you_mean

# Read from the top level of a config, beside the arguments of Runner.
_TOP_LEVEL = {
    'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'sync_bn', 'tta_model',
    'tta_pipeline'
}
# Read by builders and registries, not by the class that is built.
_BUILDER_KEYS = {
    '_delete_', '_scope_', 'constructor', 'convert_to_iter_based', 'paramwise_cfg', 'priority',
    'type'
}
# Where a class takes any key, a new one that is so similar to a known one is a misspelling.
_MISSPELT = 0.85


class OptionAction(DictAction):
    """``KEY=VALUE`` pairs into a dict; a malformed one is an ordinary command line error."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if '=' not in value:
                parser.error(f'argument {option_string}: expected KEY=VALUE, found {value!r}')
            if any(value.count(left) != value.count(right) for left, right in ('()', '[]')):
                parser.error(f'argument {option_string}: unbalanced brackets in {value!r}')
        super().__call__(parser, namespace, values, option_string)


def _untyped_arguments(section: str) -> Optional[set[str]]:
    """Keys of a section of the config that has no ``type``; None where they are not known."""
    if section in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        return constructor_arguments(DataLoader)[0].keys() | {'num_batch_per_epoch'}
    if section == 'randomness':
        return set(inspect.signature(Runner.set_randomness).parameters) - {'self'}
    if section == 'auto_scale_lr':
        return {'enable', 'base_batch_size'}
    return None


def _check_new_key(parent: dict, key: str, where: str, scope: str) -> None:
    """Refuse a key that the config does not have, unless what is configured there accepts it."""
    known, accepts_any, owner = set(), True, f'{where} of this config'
    if 'type' in parent:
        cls = find_class(parent['type'], scope)
        if cls is not None:
            arguments, accepts_any = constructor_arguments(cls)
            known = set(arguments)
        known, owner = known | _BUILDER_KEYS, parent['type']
    elif _untyped_arguments(where) is not None:
        known, accepts_any = _untyped_arguments(where), False
    if key in known:
        return
    known |= set(parent)
    if not accepts_any or get_close_matches(key, known, n=1, cutoff=_MISSPELT):
        raise UserError(f'--cfg-options {where}.{key}: {owner} has no {key!r}.'
                        f'{did_you_mean(key, known)}')


def _check_top_level(key: str, cfg) -> None:
    known = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | _TOP_LEVEL
    if key in known:
        return
    if key == 'data_root':
        raise UserError('--cfg-options data_root=... would change nothing, its value has been used '
                        'in many places already: use --data-root.')
    if key in cfg:
        raise UserError(f'--cfg-options {key}=... would change nothing: {key!r} is a variable of '
                        'the config file, whose value has been used already. Name the places where '
                        'it is used, for example train_dataloader.dataset.pipeline.')
    raise UserError(f'--cfg-options: there is no {key!r} in the config.{did_you_mean(key, known)}')


def check_options(cfg, options: dict) -> None:
    """Check that every key will have an effect.

    Args:
        cfg (Config): The config as read from its file.
        options (dict): Dotted keys to values.

    Raises:
        UserError: For the first key that would not, with the closest ones that would.
    """
    for option in options:
        keys = option.split('.')
        _check_top_level(keys[0], cfg)
        node = cfg._cfg_dict
        for depth, key in enumerate(keys):
            where = '.'.join(keys[:depth])
            if isinstance(node, (list, tuple)):
                if not key.isdigit() or int(key) >= len(node):
                    raise UserError(f'--cfg-options {option}: {where} is a list of {len(node)} '
                                    f'entries, so a number from 0 to {len(node) - 1} is expected, '
                                    f'not {key!r}.')
                node = node[int(key)]
            elif isinstance(node, dict):
                if key not in node:
                    if depth > 0:
                        _check_new_key(node, key, where, cfg.get('default_scope', 'mmengine'))
                    elif len(keys) > 1:  # a section of its own
                        _check_new_key({}, keys[1], key, 'mmengine')
                    break
                node = node[key]
            elif node is None:
                break
            else:
                raise UserError(f'--cfg-options {option}: {where} is {node!r} and has no parts.')
