"""Checking ``--cfg-options``: MMEngine adds a misspelt key to the config and ignores it."""
import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Optional

from mmengine import registry
from mmengine.config import DictAction
from mmengine.runner import Runner

from .errors import UserError

# Read from the top level of a config, beside the arguments of Runner.
_TOP_LEVEL = {
    'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'sync_bn', 'tta_model',
    'tta_pipeline'
}
# Where the classes of a config are registered; libraries have all of these.
_REGISTRIES = (
    registry.MODELS, registry.DATASETS, registry.DATA_SAMPLERS, registry.TRANSFORMS, registry.HOOKS,
    registry.LOOPS, registry.OPTIMIZERS, registry.OPTIM_WRAPPERS, registry.PARAM_SCHEDULERS,
    registry.METRICS, registry.EVALUATOR, registry.VISUALIZERS, registry.VISBACKENDS,
    registry.LOG_PROCESSORS, registry.TASK_UTILS, registry.WEIGHT_INITIALIZERS)
# Read by builders and registries, not by the class that is built.
_BUILDER_KEYS = {
    '_delete_', '_scope_', 'constructor', 'convert_to_iter_based', 'paramwise_cfg', 'priority',
    'type'
}


class OptionAction(DictAction):
    """``KEY=VALUE`` pairs into a dict; a malformed one is an ordinary command line error."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if '=' not in value:
                parser.error(f'argument {option_string}: expected KEY=VALUE, found {value!r}')
            if any(value.count(left) != value.count(right) for left, right in ('()', '[]')):
                parser.error(f'argument {option_string}: unbalanced brackets in {value!r}')
        super().__call__(parser, namespace, values, option_string)


def _suggest(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, sorted(known), n=3, cutoff=0.6)
    return f' Did you mean {" or ".join(map(repr, close))}?' if close else ''


def find_class(name: Any, scope: str) -> Optional[Any]:
    """Return what ``type=name`` stands for in any registry of a library, None if it is unknown."""
    if not isinstance(name, str):
        return name
    for root in _REGISTRIES:
        with root.switch_scope_and_registry(scope) as library:
            found = library.get(name)
        if found is not None:
            return found
    return None


def accepted_arguments(cls: Any) -> Optional[set[str]]:
    """Names a constructor accepts, followed up through ``**kwargs``; None if it accepts any."""
    names = set()
    for owner in inspect.getmro(cls) if inspect.isclass(cls) else [cls]:
        function = vars(owner).get('__init__') if inspect.isclass(cls) else owner
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names - {'self'}
    return None


def _check_new_key(parent: dict, key: str, where: str, scope: str) -> None:
    """Refuse a key that the config does not have, unless the class configured there accepts it."""
    if 'type' in parent:
        cls = find_class(parent['type'], scope)
        accepted = accepted_arguments(cls) if cls is not None else None
        if accepted is None or key in accepted | _BUILDER_KEYS:
            return
        raise UserError(f'--cfg-options {where}.{key}: {parent["type"]} has no argument {key!r}.'
                        f'{_suggest(key, accepted)}')
    close = get_close_matches(key, list(parent), n=1, cutoff=0.85)
    if close:
        raise UserError(f'--cfg-options {where}.{key}: there is no {key!r} in {where}. '
                        f'Did you mean {close[0]!r}?')


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
    raise UserError(f'--cfg-options: there is no {key!r} in the config.{_suggest(key, known)}')


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
                    break
                node = node[key]
            elif node is None:
                break
            else:
                raise UserError(f'--cfg-options {option}: {where} is {node!r} and has no parts.')
