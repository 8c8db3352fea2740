"""Conversion between checkpoint sources, and strict loading into a backbone."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

from torch import Tensor, nn

from .container import CONTAINER
from .cotnet import COTNET
from .cotnet_detectron2 import COTNET_DETECTRON2
from .files import load_file, resolve_path
from .key_table import COUNTER, KeyMismatchError, KeyTable
from .smca_detr import MULTI_SCALE_SMCA_DETR, SMCA_DETR
from .tensors import unwrap_state_dict
from .timm_coatnet import TIMM_COATNET

SOURCES: dict[str, KeyTable] = {
    table.name: table for table in (
        CONTAINER, COTNET, COTNET_DETECTRON2, SMCA_DETR, MULTI_SCALE_SMCA_DETR, TIMM_COATNET)}

# Nothing reads the one, and a CoAtNet that has not got the other from its weights has zeros there.
_MAY_BE_MISSING = (COUNTER, 'stem.input_shift')
# A classifier is of no use to a detector, so its weights may be left over.
_CLASSIFIERS = ('head.', 'fc.')
_FINAL_NORM = 'norm.'
# Norms of ``out_norm``, which no classifier has.
_OUT_NORMS = 'out_norms.'
# Of detectron2's backbone below an FPN, of the teacher of DINO, whose student has batch norms for
# small crops, and of MMEngine's models.
_BACKBONE_PREFIXES = ('backbone.bottom_up.', 'teacher.module.backbone.', 'backbone.')


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
            Weights of this package need no conversion, and it says how they are used.
    """
    unplaced = {name: table.rename(state_dict)[1] for name, table in SOURCES.items()}
    closest = min(unplaced, key=lambda name: len(unplaced[name]))
    if unplaced[closest] and _is_ours(state_dict):
        raise KeyMismatchError(
            'These weights have the names of this package already and need no conversion: give the '
            'file as it is to tools/test.py and tools/infer.py, or use its backbone in another '
            "model by init_cfg=dict(type='StrictPretrained', checkpoint=FILE).")
    if unplaced[closest]:
        raise KeyMismatchError(
            f'The checkpoint is of no known source ({", ".join(SOURCES)}). The closest is '
            f'{closest!r}, but it has no place for {len(unplaced[closest])} of {len(state_dict)} '
            f'keys: {", ".join(unplaced[closest])}.')
    return closest


def _is_ours(state_dict: Mapping[str, Tensor]) -> bool:
    names = _take_backbone(dict(state_dict))
    names = [key for key in names if not key.startswith((*_CLASSIFIERS, _FINAL_NORM))]
    return bool(names) and any(
        not table.rename(names, reverse=True)[1] for table in SOURCES.values())


def convert(state_dict: Mapping, source: str = 'auto') -> dict[str, Tensor]:
    """Rename the weights of an official checkpoint to the names of this package.

    Args:
        state_dict (Mapping): Official state dict, or the whole checkpoint around it.
        source (str): 'container', 'cotnet' (classification), 'cotnet-detectron2' (backbones and
            detectors), 'smca-detr' and 'multi-scale-smca-detr' (detectors), 'timm-coatnet', or
            'auto' to recognise it by its keys.

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


def read_weights(path: Union[str, Path]) -> tuple[dict[str, Tensor], Any]:
    """Read a file of weights: the one way in which all tools of this package do it.

    Args:
        path (str | Path): See :func:`resolve_path`.

    Returns:
        tuple: Finite tensors by name, see :func:`unwrap_state_dict`, and all that the file holds.

    Raises:
        FileNotFoundError, UnsafeCheckpointError, CorruptCheckpointError, ImportError: See
            :func:`load_file`.
        ValueError: Naming the file: it holds no weights, or such as cannot be used.
    """
    path = resolve_path(path)
    content = load_file(path)
    try:
        return unwrap_state_dict(content), content
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def load_backbone(model: nn.Module, checkpoint: Union[str, Path, Mapping]) -> None:
    """Load weights into a backbone completely, or fail and leave it as it was.

    Takes weights of this package or of an official source, alone or as the ``backbone.`` part of a
    detector or classifier. Left-over classifier weights are ignored, and so are those of the final
    norm if the model has none (``final_norm=False``); anything else has to match one to one. Only
    the counters of batches of batch norms, which nothing reads, may be missing, and the
    ``input_shift`` of a CoAtNet, which is then what it was. If the checkpoint has none of the norms
    that ``out_norm=True`` puts on the outputs, these stay as they are, too.

    Args:
        model (nn.Module): Backbone of this package.
        checkpoint (str | Path | Mapping): File (no code of it is run) or state dict.

    Raises:
        FileNotFoundError, UnsafeCheckpointError, CorruptCheckpointError, ImportError, ValueError:
            See :func:`read_weights`.
        KeyMismatchError: Weights missing, left over or of another shape, each one named.
    """
    is_file = not isinstance(checkpoint, Mapping)
    state_dict = read_weights(checkpoint)[0] if is_file else unwrap_state_dict(checkpoint)
    name = str(checkpoint) if is_file else 'The checkpoint'
    state_dict = _take_backbone(state_dict)
    expected = model.state_dict()
    if not any(key.startswith(_OUT_NORMS) for key in state_dict):
        expected = {key: value for key, value in expected.items()
                    if not key.startswith(_OUT_NORMS)}
    if 2 * len(expected.keys() & state_dict) < len(expected):  # not in our naming
        try:
            state_dict = convert(state_dict)
        except KeyMismatchError as error:
            raise KeyMismatchError(f'{checkpoint}: {error}' if is_file else str(error)) from error
    state_dict = {key: value for key, value in state_dict.items()
                  if key in expected or not _is_ignorable(key, model)}
    problems = find_problems(expected, state_dict)
    if problems:
        raise KeyMismatchError(
            f'{name} does not fit {type(model).__name__}; nothing was loaded.\n'
            + '\n'.join(f'{len(keys)} weights {kind}: {", ".join(keys)}'
                        for kind, keys in problems.items())
            + '\nCheck that arch (and final_norm) of the config belong to this checkpoint.')
    model.load_state_dict(state_dict, strict=False)


def name_classifier(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the weights of an official classifier as those of MMPretrain's ``ImageClassifier``.

    Args:
        state_dict (Mapping[str, Tensor]): As published, or as ``tools/convert_checkpoint.py``
            writes it: names of the backbone without prefix, and one linear layer.

    Returns:
        dict[str, Tensor]: 'backbone...', 'head.fc.weight' and 'head.fc.bias'.

    Raises:
        KeyMismatchError: The names are of no known source.
    """
    if not _is_ours(state_dict):
        state_dict = convert(state_dict)
    return {f'head.fc.{key.rpartition(".")[2]}' if key.startswith(_CLASSIFIERS) else
            f'backbone.{key}': value for key, value in state_dict.items()}


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


def find_problems(expected: Mapping[str, Tensor],
                  found: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Compare weights with those of a model.

    Args:
        expected (Mapping[str, Tensor]): State dict of the model.
        found (Mapping[str, Tensor]): State dict to load.

    Returns:
        dict[str, list[str]]: {what is wrong: names}; empty if all can be loaded.
    """
    common = [key for key in expected if key in found]
    kinds = {
        'missing in the checkpoint': [
            key for key in expected if key not in found and not key.endswith(_MAY_BE_MISSING)],
        'left over in the checkpoint': [key for key in found if key not in expected],
        'of another shape': [
            f'{key} (model {tuple(expected[key].shape)}, checkpoint {tuple(found[key].shape)})'
            for key in common if expected[key].shape != found[key].shape],
        'of another kind of number': [
            f'{key} (model {expected[key].dtype}, checkpoint {found[key].dtype})' for key in common
            if expected[key].is_floating_point() and not found[key].is_floating_point()],
        "too large for the model's kind of number": [
            f'{key} (model {expected[key].dtype}, checkpoint {found[key].dtype})' for key in common
            if expected[key].is_floating_point() and found[key].dtype != expected[key].dtype
            and not found[key].to(expected[key].dtype).isfinite().all()]}
    return {kind: keys for kind, keys in kinds.items() if keys}
