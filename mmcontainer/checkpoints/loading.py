"""Conversion between checkpoint sources, and strict loading into a backbone."""
from collections.abc import Mapping
from pathlib import Path
from typing import Union

from torch import Tensor, nn

from .container import CONTAINER
from .cotnet import COTNET
from .cotnet_detectron2 import COTNET_DETECTRON2
from .files import load_file, unwrap_state_dict
from .key_table import KeyMismatchError, KeyTable
from .smca_detr import SMCA_DETR
from .timm_coatnet import TIMM_COATNET

SOURCES: dict[str, KeyTable] = {
    table.name: table for table in (
        CONTAINER, COTNET, COTNET_DETECTRON2, SMCA_DETR, TIMM_COATNET)}

# A classifier is of no use to a detector, so its weights may be left over.
_CLASSIFIERS = ('head.', 'fc.')
_FINAL_NORM = 'norm.'
# Of detectron2's backbone below an FPN, and of MMEngine's models.
_BACKBONE_PREFIXES = ('backbone.bottom_up.', 'backbone.')


def get_source(name: str) -> KeyTable:
    """Return the key table of a checkpoint source; ValueError lists the known ones."""
    if name not in SOURCES:
        raise ValueError(f'Unknown checkpoint source {name!r}; expected one of '
                         f'{", ".join(map(repr, ("auto", *SOURCES)))}.')
    return SOURCES[name]


def detect_source(state_dict: Mapping[str, Tensor]) -> str:
    """Return the name of the source whose table covers every key.

    Raises:
        KeyMismatchError: If there is none; it names the keys that the closest source cannot place.
    """
    unplaced = {name: table.rename(state_dict)[1] for name, table in SOURCES.items()}
    closest = min(unplaced, key=lambda name: len(unplaced[name]))
    if unplaced[closest]:
        raise KeyMismatchError(
            f'The checkpoint is of no known source ({", ".join(SOURCES)}). The closest is '
            f'{closest!r}, but it has no place for {len(unplaced[closest])} of {len(state_dict)} '
            f'keys: {", ".join(unplaced[closest])}.')
    return closest


def convert(state_dict: Mapping, source: str = 'auto') -> dict[str, Tensor]:
    """Rename the weights of an official checkpoint to the names of this package.

    Args:
        state_dict (Mapping): Official state dict, or the whole checkpoint around it.
        source (str): 'container', 'cotnet' (classification), 'cotnet-detectron2' (backbones and
            detectors), 'smca-detr' (detectors), 'timm-coatnet', or 'auto' to recognise it by
            its keys.

    Returns:
        dict[str, Tensor]: Backbone weights without prefix (classifier and final norm included), or
        those of a whole MMDetection detector.

    Raises:
        KeyMismatchError: Naming every key that has no place, or stored settings of the detector
            that are not those of our configs.
        ValueError: Unknown source, or no tensors by name in ``state_dict``.
    """
    if source != 'auto':
        get_source(source)
    state_dict = unwrap_state_dict(state_dict)
    return get_source(detect_source(state_dict) if source == 'auto' else source).convert(state_dict)


def convert_back(state_dict: Mapping, source: str) -> dict[str, Tensor]:
    """Rename weights of this package to the official names: the inverse of :func:`convert`.

    Raises:
        KeyMismatchError: Naming every key that has no official name.
        ValueError: Unknown source.
    """
    return get_source(source).convert(unwrap_state_dict(state_dict), reverse=True)


def load_backbone(model: nn.Module, checkpoint: Union[str, Path, Mapping]) -> None:
    """Load weights into a backbone completely, or fail and leave it as it was.

    Takes weights of this package or of an official source, alone or as the ``backbone.`` part of a
    detector or classifier. Left-over classifier weights are ignored, and so are those of the final
    norm if the model has none (``final_norm=False``); anything else has to match one to one.

    Args:
        model (nn.Module): Backbone of this package.
        checkpoint (str | Path | Mapping): File (read with ``weights_only=True``) or state dict.

    Raises:
        FileNotFoundError, UnsafeCheckpointError, CorruptCheckpointError: See :func:`load_file`.
        KeyMismatchError: Weights missing, left over or of another shape, each one named.
    """
    if not isinstance(checkpoint, Mapping):
        checkpoint = load_file(checkpoint)
    state_dict = _take_backbone(unwrap_state_dict(checkpoint))
    expected = model.state_dict()
    if 2 * len(expected.keys() & state_dict) < len(expected):  # not in our naming
        state_dict = convert(state_dict)
    state_dict = {key: value for key, value in state_dict.items()
                  if key in expected or not _is_ignorable(key, model)}
    problems = _list_problems(expected, state_dict)
    if problems:
        raise KeyMismatchError(
            f'The checkpoint does not fit {type(model).__name__}; nothing was loaded.\n'
            + '\n'.join(problems)
            + '\nCheck that arch (and final_norm) of the config belong to this checkpoint.')
    model.load_state_dict(state_dict)


def _take_backbone(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _BACKBONE_PREFIXES:
        backbone = {key[len(prefix):]: value
                    for key, value in state_dict.items() if key.startswith(prefix)}
        if backbone:
            return backbone
    return state_dict


def _is_ignorable(key: str, model: nn.Module) -> bool:
    has_final_norm = getattr(model, 'norm', None) is not None
    return key.startswith(_CLASSIFIERS) or (key.startswith(_FINAL_NORM) and not has_final_norm)


def _list_problems(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list:
    missing = [key for key in expected if key not in found]
    left_over = [key for key in found if key not in expected]
    reshaped = [f'{key} (model {tuple(expected[key].shape)}, checkpoint {tuple(found[key].shape)})'
                for key in found if key in expected and expected[key].shape != found[key].shape]
    kinds = (('missing in the checkpoint', missing), ('left over in the checkpoint', left_over),
             ('of another shape', reshaped))
    return [f'{len(keys)} weights {kind}: {", ".join(keys)}' for kind, keys in kinds if keys]
