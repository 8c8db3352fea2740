"""Loading the weights of whole models, completely or not at all.

MMEngine reads checkpoints by rules of its own and only logs what does not fit. The tools read every
file with :func:`mmcontainer.checkpoints.read_weights` instead, as soon as the model is built, and
hand the runner its content.
"""
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from ..backbones import BaseBackbone
from ..checkpoints import (
    CorruptCheckpointError,
    KeyMismatchError,
    check_file,
    find_problems,
    load_backbone,
    name_classifier,
    read_weights,
    resolve_path,
)
from ..checkpoints.tensors import some
from ..data_check.classes import check_checkpoint_classes, classes_of_split
from ..engine.deploy import unwrap
from ..errors import UserError, as_user_error
from ..type_names import loading_entries, type_name
from .resume_check import check_resumed_settings, check_training_state, count_iterations


def local_file(checkpoint: str) -> Path:
    """Find a checkpoint on the disk; one that is named by its address is downloaded first.

    Raises:
        UserError: No such file, or an address that is not HTTP's or cannot be reached.
        CorruptCheckpointError: What was downloaded is no checkpoint; it is not kept.
    """
    scheme = urlparse(checkpoint).scheme if '://' in checkpoint else ''
    if not scheme:
        try:
            return resolve_path(checkpoint)
        except FileNotFoundError as error:
            raise UserError(f'There is no checkpoint {checkpoint}. {error}') from error
    if scheme not in ('http', 'https'):
        raise UserError(f'{checkpoint}: checkpoints are read from files and from http(s):// '
                        f'addresses, not from {scheme}://. Download it, and name the file.')
    # By address: files of different places may have the same name.
    folder = hashlib.sha256(checkpoint.encode()).hexdigest()[:8]
    target = (Path(torch.hub.get_dir()) / 'checkpoints' / folder
              / (Path(urlparse(checkpoint).path).name or 'weights.pth'))
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(checkpoint, str(target))
        except (URLError, OSError) as error:
            raise UserError(f'{checkpoint} cannot be downloaded ({error}). Download it by other '
                            'means, and name the file.') from error
        try:
            check_file(target)
        except CorruptCheckpointError:
            target.unlink()  # the next run is to download it again
            raise
    return target


def read_for(model: nn.Module, checkpoint: str, partial: bool = False) -> dict[str, Any]:
    """Read a checkpoint and check that its weights are those of a model.

    For a classifier, it may be the official file.

    Args:
        model (nn.Module): Not changed.
        checkpoint (str): File or address, see :func:`local_file`.
        partial (bool): Leave out what does not fit, and say how much that is.

    Returns:
        dict: Content of the file, its weights as 'state_dict'.

    Raises:
        UserError: Weights missing, left over or of another shape or kind of number; with
            ``partial``, nothing fits; or the file holds no weights that can be used.
        CorruptCheckpointError, UnsafeCheckpointError: See
            :func:`mmcontainer.checkpoints.read_weights`.
    """
    path = local_file(checkpoint)
    with as_user_error():
        found, content = read_weights(path)
    expected = model.state_dict()
    if 'head.fc.weight' in expected and not any(key.startswith('backbone.') for key in found):
        with suppress(KeyMismatchError):  # what does not fit is said below
            found = name_classifier(found)
    problems = find_problems(expected, found)
    if problems and partial:
        found = _take_fitting(expected, found, path)
    elif problems:
        raise UserError(_mismatch_message(path, model, expected, found, problems))
    whole = dict(content) if isinstance(content, Mapping) and 'meta' in content else {}
    if partial:  # EMAHook would look for all weights there; 'state_dict' is the average already
        whole.pop('ema_state_dict', None)
    return {**whole, 'state_dict': found}


def _take_fitting(expected: Mapping[str, Tensor], found: Mapping[str, Tensor],
                  path: Path) -> dict[str, Tensor]:
    fitting = {key: value for key, value in found.items() if key in expected
               and not find_problems({key: expected[key]}, {key: value})}
    reshaped = sum(key in expected for key in found) - len(fitting)
    counts = (f'{len(fitting)} of {len(expected)} weights of the model are loaded, '
              f'{len(expected.keys() - found.keys())} are not in the file, {reshaped} have another '
              f'shape there, {len(found.keys() - expected.keys())} of the file have no place')
    if not fitting:
        raise UserError(f'{path} has nothing for this model: {counts}.')
    print(f'{path}: {counts}.', flush=True)
    return fitting


def _mismatch_message(path: Path, model: nn.Module, expected: Mapping[str, Tensor],
                      found: Mapping[str, Tensor], problems: dict[str, list[str]]) -> str:
    lines = [f'  {len(keys)} {kind}: {some(keys)}' for kind, keys in problems.items()]
    backbone = getattr(model, 'backbone', None)
    if backbone is not None and not any(key.startswith('backbone.') for key in found) and (
            2 * len(backbone.state_dict().keys() & found.keys()) > len(found)):
        advice = ('It holds a backbone alone: name it in model.backbone.init_cfg='
                  f"dict(type='StrictPretrained', checkpoint='{path}'), not in load_from.")
    else:
        advice = ('Use the config that it was trained with (a copy lies beside it, in its work '
                  'dir). To start a training from those of its weights that do fit, other classes '
                  "for example, set load_from and add --allow-partial-load to tools/train.py.")
    return (f'{path} does not belong to this config: of {len(expected)} weights of '
            f'{type(model).__name__}\n' + '\n'.join(lines) + f'\n{advice}')


def load_weights(model: nn.Module, checkpoint: str) -> dict[str, Any]:
    """Load all weights of a model, or none; arguments and errors as :func:`read_for`.

    Returns:
        dict: Content of the file.
    """
    content = read_for(model, checkpoint)
    _load(model, content)
    return content


def _load(model: nn.Module, content: Mapping[str, Any]) -> None:
    model.load_state_dict(content['state_dict'], strict=False)  # checked before, or partial


def prepare_loading(runner, checkpoint: str, partial: bool = False) -> dict[str, Any]:
    """Read and check a checkpoint now; the runner loads, or resumes from, this very content.

    Args:
        runner (Runner): Built with ``load_from`` and ``resume``; its model is not changed yet.
        checkpoint (str): File or address.
        partial (bool): See :func:`read_for`.

    Returns:
        dict: Content of the file.

    Raises:
        UserError: See :func:`read_for`; or, to resume, it is not all that a training wrote.
    """
    if not isinstance(runner, Runner):
        raise UserError(f'runner_type {type(runner).__name__} loads checkpoints by rules of its '
                        'own, which do not notice what is missing: remove runner_type from the '
                        'config.')
    model = unwrap(runner.model)
    content = read_for(model, checkpoint, partial)
    if runner._resume:
        check_training_state(runner, content, checkpoint)
        check_checkpoint_classes(content, classes_of_split(runner.cfg, 'train'), checkpoint)
        check_resumed_settings(runner.cfg, content, checkpoint)

    def load_checkpoint(filename: str, *args, **kwargs) -> dict[str, Any]:
        """Takes the place of Runner.load_checkpoint, which Runner.resume calls too; once."""
        del runner.load_checkpoint  # and with it the content, which would stay in memory
        runner.call_hook('after_load_checkpoint', checkpoint=content)
        _load(model, content)
        runner._has_loaded = True
        if runner._resume:
            count_iterations(runner, content)
        runner.logger.info(f'Load checkpoint from {filename}')
        return content

    runner.load_checkpoint = load_checkpoint
    return content


def forget_pretrained(model: nn.Module) -> None:
    """Take away every ``init_cfg`` that loads weights, which a whole checkpoint will replace."""
    for module in model.modules():
        if loading_entries(getattr(module, 'init_cfg', None)):
            module.init_cfg = None


def check_pretrained_weights(model: nn.Module) -> None:
    """Load what :class:`StrictPretrained` will load, before minutes go into reading the data.

    Raises:
        UserError, CorruptCheckpointError, UnsafeCheckpointError: See
            :func:`mmcontainer.checkpoints.load_backbone`.
    """
    for module in model.modules():
        for entry in loading_entries(module.init_cfg) if isinstance(module, BaseBackbone) else ():
            if type_name(entry['type']) == 'StrictPretrained':
                with as_user_error():
                    load_backbone(module, entry['checkpoint'])
