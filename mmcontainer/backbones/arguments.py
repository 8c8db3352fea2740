"""Checks of the arguments of backbones, and of the entries of architecture rows."""
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS

from ..layers.mbconv import ACTIVATIONS


def is_count(value: Any) -> bool:
    """Tell whether a value is a whole number from 1."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def is_number(value: Any) -> bool:
    """Tell whether a value is a number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_in_channels(in_channels: Any) -> None:
    """Raise a ValueError unless it is a number of channels."""
    if not is_count(in_channels):
        raise ValueError('in_channels must be the number of channels of the input images, a whole '
                         f'number from 1, got {in_channels!r}.')


def check_drop_path_rate(rate: Any) -> None:
    """Raise a ValueError unless 0 <= rate < 1; at 1 every block would be dropped."""
    if not is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f'drop_path_rate must be a number from 0 and below 1, got {rate!r}.')


def check_norm_cfg(norm_cfg: Any) -> None:
    """Raise a ValueError unless it is a dict with the type of a norm that is registered."""
    if not isinstance(norm_cfg, Mapping) or 'type' not in norm_cfg:
        raise ValueError("norm_cfg must be a dict with a type, for example dict(type='BN') or "
                         f"dict(type='BN', requires_grad=False), got {norm_cfg!r}.")
    kind = norm_cfg['type']
    with MODELS.switch_scope_and_registry(None) as registry:  # as mmcv's build_norm_layer does
        known = isinstance(kind, type) or isinstance(kind, str) and registry.get(kind) is not None
    if not known:
        raise ValueError(f"norm_cfg names a norm that is not registered, {kind!r}; 'BN' and "
                         "'SyncBN' are.")
    if not isinstance(norm_cfg.get('requires_grad', True), bool):
        raise ValueError('requires_grad of norm_cfg must be True or False, got '
                         f'{norm_cfg["requires_grad"]!r}.')
    groups = norm_cfg.get('num_groups', 1)
    try:
        build_norm_layer(dict(norm_cfg), groups if is_count(groups) else 1)
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        reason = str(error) or 'a group norm needs num_groups'
        raise ValueError(f'norm_cfg describes no norm that can be built, {norm_cfg!r}: '
                         f'{reason}') from error


class Rule(NamedTuple):
    """Condition on an entry of a row.

    Attributes:
        holds (Callable): Whether the value of one stage is allowed.
        expected (str): What is, for people to read.
    """
    holds: Callable[[Any], bool]
    expected: str


_COUNT = Rule(is_count, 'whole numbers from 1')
_ACTIVATION = Rule(lambda value: isinstance(value, str) and value in ACTIVATIONS,
                   f'one of {", ".join(map(repr, ACTIVATIONS))}')
_RULES = {
    'embed_dims': _COUNT,
    'depths': _COUNT,
    'patch_sizes': _COUNT,
    'widths': _COUNT,
    'stem_width': _COUNT,
    'image_size': _COUNT,
    'mlp_ratios': Rule(lambda value: is_number(value) and 0 < value < float('inf'),
                       'numbers above 0'),
    'num_heads': Rule(lambda value: value is None or is_count(value),
                      'whole numbers from 1, or None'),
    'static': Rule(lambda value: value is None or isinstance(value, Mapping) and 'kind' in value,
                   "None, or a dict with a kind such as dict(kind='depthwise', kernel_size=3)"),
    'act': _ACTIVATION,
    'gate_act': _ACTIVATION,
    'stem': Rule(lambda value: value == 'conv7' or is_count(value),
                 "'conv7' or a whole number from 1"),
}
# Entries that stages are counted by: one value for all stages will not do.
_PER_STAGE = ('embed_dims', 'depths', 'patch_sizes', 'num_heads', 'block_types')


def check_row(row: Mapping[str, Any], owner: str) -> None:
    """Check the types and ranges of the entries of a row, sequences being tuples.

    Raises:
        ValueError: For the first entry that breaks its rule.
    """
    for key, value in row.items():
        if key in _PER_STAGE and not isinstance(value, tuple):
            raise ValueError(f'{key} of an arch of {owner} must be a list with one value per '
                             f'stage, got {value!r}.')
        rule = _RULES.get(key)
        values = value if isinstance(value, tuple) else (value, )
        if rule is not None and not all(map(rule.holds, values)):
            raise ValueError(f'{key} of an arch of {owner} must be {rule.expected}, got {value!r}.')
