"""The weights inside of a checkpoint: where they are, and whether they are numbers to load."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Files keep their weights under these names. Averaged weights (timm's name) come before
# 'state_dict': where a training kept them, it evaluated them.
_WRAPPERS = ('model', 'state_dict_ema', 'state_dict')
_SHOWN = 5
# Eight-bit floats are numbers only together with a scale that is not theirs.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def some(names: Sequence[str]) -> str:
    """A list of names for a message: all, or the first few and how many more there are."""
    more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    return ', '.join(map(str, names[:_SHOWN])) + more


def unwrap_state_dict(checkpoint: Any) -> dict[str, Tensor]:
    """Take the tensors by name out of a checkpoint.

    Looks below 'model', 'state_dict_ema' (averaged weights, which official training evaluates) or
    'state_dict', and removes the 'module.' that data parallel training adds. NumPy arrays, which
    some of detectron2's files hold, become tensors.

    Args:
        checkpoint (Any): What :func:`mmcontainer.checkpoints.load_file` returned, or a state dict.

    Returns:
        dict[str, Tensor]: Plain state dict of dense tensors.

    Raises:
        ValueError: If there is no dict of tensors in it, or two that may be meant; if a tensor has
            no numbers of its own (sparse, quantised or meta tensors), or numbers that are NaN or
            infinite.
    """
    wrappers = [name for name in _WRAPPERS
                if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(name), Mapping)]
    if 'model' in wrappers and len(wrappers) > 1:
        raise ValueError(f'There are weights below {" and ".join(map(repr, wrappers))}, and '
                         'nothing says which are meant: save the right ones alone, as '
                         "torch.save({'state_dict': ...}, FILE).")
    content = checkpoint[wrappers[0]] if wrappers else checkpoint
    if isinstance(content, Mapping):
        content = {key: torch.from_numpy(value) if _is_numeric(value) else value
                   for key, value in content.items()}
    is_state_dict = isinstance(content, Mapping) and content and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    if not is_state_dict:
        raise ValueError('Expected a dict of tensors by name, alone or under '
                         f'{" or ".join(map(repr, _WRAPPERS))}; found {_summary(content)}.')
    check_numbers(content)
    if all(key.startswith('module.') for key in content):
        return {key[len('module.'):]: value for key, value in content.items()}
    return dict(content)


def check_numbers(state_dict: Mapping[str, Tensor]) -> None:
    """Check that all tensors are plain ones with finite numbers; ValueError names those that fail.
    """
    odd = [f'{key} ({kind})' for key, kind in (
        (key, _odd_kind(value)) for key, value in state_dict.items()) if kind]
    if odd:
        raise ValueError(f'Expected plain tensors; found {some(odd)}.')
    bad = [key for key, value in state_dict.items()
           if value.is_floating_point() and not _stored(value).isfinite().all()]
    if bad:
        raise ValueError(f'{len(bad)} weights hold NaN or infinity: {some(bad)}. The training that '
                         'wrote them had diverged: use an earlier checkpoint.')


def _odd_kind(value: Tensor) -> str:
    """Say why a tensor has no numbers of its own; '' if it has."""
    if value.is_meta:
        return 'without numbers, on the meta device'
    if value.is_quantized:
        return 'quantised'
    if value.is_nested or value.layout != torch.strided:
        return 'nested' if value.is_nested else str(value.layout)
    if value.is_complex():
        return 'complex'
    if value.is_floating_point() and value.dtype not in _FLOATS:
        return str(value.dtype)
    return ''


def _stored(value: Tensor) -> Tensor:
    """The numbers behind a tensor, each once.

    A few bytes can claim any shape (``expand``): looking at all of it would fill the memory.
    """
    span = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride()))
    return value.as_strided((span, ), (1, )) if value.numel() > span else value


def _summary(content: Any) -> str:
    if not isinstance(content, Mapping):
        return str(type(content))
    others = [key for key, value in content.items()
              if not (isinstance(key, str) and isinstance(value, Tensor))]
    if not content:
        return 'an empty dict'
    return (f'{len(content)} entries, of which {len(others)} are no tensors: '
            f'{some(sorted(map(str, others)))}')


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in 'biuf'
