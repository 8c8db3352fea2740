"""Reading and writing checkpoint files without executing code and without half-written files."""
import argparse
import hashlib
import io
import os
import pickle
import re
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

from ..compat import allow_mmengine_checkpoints

# Averaged weights (timm's name) come first: where a training kept them, it evaluated them.
_WRAPPERS = ('model', 'state_dict_ema', 'state_dict')
# Plain records that training scripts put beside their weights. Configs of yacs become dicts.
_RECORDS = (argparse.Namespace, (OrderedDict, 'yacs.config.CfgNode'))
# How torch.save's files of before 2020 begin, behind the two bytes of the pickle protocol.
_TORCH_MAGIC = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
_HASHED = re.compile(r'-([0-9a-f]{8})$')


class UnsafeCheckpointError(RuntimeError):
    """A file that can only be read by executing code stored inside of it."""


class CorruptCheckpointError(RuntimeError):
    """A file that is no readable PyTorch checkpoint."""


def resolve_path(path: Union[str, Path]) -> Path:
    """Find a checkpoint by its stable name, with or without the content hash in its file name.

    ``name.pth`` also finds the one file ``name-xxxxxxxx.pth`` beside it, as written by
    ``tools/convert_checkpoint.py``.

    Raises:
        FileNotFoundError: If neither exists, or several hashed files do.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    hashed = [p for p in path.parent.glob(f'{path.stem}-*{path.suffix}') if _HASHED.search(p.stem)]
    if len(hashed) > 1:
        raise FileNotFoundError(f'{path} does not exist and several files could stand for it: '
                                f'{", ".join(sorted(map(str, hashed)))}. Keep one, or name one.')
    if not hashed:
        raise FileNotFoundError(f'There is no file {path}.')
    return hashed[0]


def load_file(path: Union[str, Path]) -> Any:
    """Read a checkpoint onto the CPU with ``weights_only=True``.

    Records that training scripts put beside their weights (``argparse.Namespace``, and configs of
    yacs, which become dicts) are allowed.

    Args:
        path (str | Path): File, see :func:`resolve_path`.

    Returns:
        Any: Whatever the file holds, usually a dict.

    Raises:
        FileNotFoundError: No such file.
        UnsafeCheckpointError: Reading it would execute code of the file.
        CorruptCheckpointError: It is truncated, its content hash is wrong, or it is something else.
    """
    named, path = Path(path).expanduser(), resolve_path(path)
    if path != named:  # found by its stable name, so it is ours and its hash can be trusted
        _check_hash(path)
    # Again, because the maintained fork of MMEngine withdraws it whenever it has read a checkpoint.
    allow_mmengine_checkpoints()
    if _is_plain_pickle(path):
        raise UnsafeCheckpointError(_refusal(
            path, 'is a plain pickle, not a file of torch.save',
            "pickle.load(open('OLD.pkl', 'rb'), encoding='latin1')"))
    try:
        with torch.serialization.safe_globals(list(_RECORDS)):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch raises this for forbidden objects and for garbage alike; only its text differs.
        forbidden = re.search(r'(?:Unsupported global: GLOBAL|Trying to (?:load|call reduce for)|'
                              r'Unsupported class|Can only build)\s+(\S+)', str(error))
        if forbidden is None:
            raise CorruptCheckpointError(_corrupt_message(path)) from error
        raise UnsafeCheckpointError(_refusal(
            path, f'contains {forbidden.group(1).rstrip(".")!r}, not just tensors',
            "torch.load('OLD.pth', weights_only=False)")) from error
    except PermissionError:
        raise
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CorruptCheckpointError(_corrupt_message(path)) from error


def _is_plain_pickle(path: Path) -> bool:
    """Whether a file was written by ``pickle.dump``, as detectron2's .pkl files, not by PyTorch."""
    with open(path, 'rb') as file:
        head = file.read(2 + len(_TORCH_MAGIC))
    return head[:1] == b'\x80' and head[1:2] in b'\x02\x03\x04\x05' and head[2:] != _TORCH_MAGIC


def _refusal(path: Path, what: str, load: str) -> str:
    return (f'{path} is refused: to read it, Python would have to run code stored in the file '
            f'(it {what}). If you trust where it came from, extract the weights once, in a '
            'throw-away environment, and use the new file:\n'
            f'  python -c "import pickle, torch; c = {load}; '
            "c = c.get('model', c.get('state_dict', c)); "
            "torch.save({k: torch.as_tensor(v) for k, v in c.items()}, 'NEW.pth')\"")


def _corrupt_message(path: Path) -> str:
    return (f'{path} ({path.stat().st_size} bytes) is not a readable PyTorch checkpoint. It may be '
            'an incomplete download, or a web page saved in place of the file: delete it and '
            'download it again.')


def _check_hash(path: Path) -> None:
    match = _HASHED.search(path.stem)
    if match and file_hash(path) != match.group(1):
        raise CorruptCheckpointError(
            f'{path} does not have the content its name promises (its hash is {file_hash(path)}). '
            'It was changed or not copied completely: copy or convert it again.')


def file_hash(path: Union[str, Path]) -> str:
    """First 8 hexadecimal digits of the SHA-256 of a file, as in OpenMMLab's file names."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()[:8]


def unwrap_state_dict(checkpoint: Any) -> dict[str, Tensor]:
    """Take the tensors by name out of a checkpoint.

    Looks below 'model', 'state_dict_ema' (averaged weights, which official training evaluates) or
    'state_dict', and removes the 'module.' that data parallel training adds.
    NumPy arrays, which some of detectron2's files hold, become tensors.

    Args:
        checkpoint (Any): What :func:`load_file` returned, or a state dict.

    Returns:
        dict[str, Tensor]: Plain state dict.

    Raises:
        ValueError: If there is no dict of tensors in it.
    """
    for wrapper in _WRAPPERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(wrapper), Mapping):
            checkpoint = checkpoint[wrapper]
            break
    if isinstance(checkpoint, Mapping):
        checkpoint = {key: torch.from_numpy(value) if _is_numeric(value) else value
                      for key, value in checkpoint.items()}
    is_state_dict = isinstance(checkpoint, Mapping) and checkpoint and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in checkpoint.items())
    if not is_state_dict:
        content = type(checkpoint)
        if isinstance(checkpoint, Mapping):
            content = sorted(checkpoint, key=str)
        raise ValueError('Expected a dict of tensors by name, alone or under '
                         f'{" or ".join(map(repr, _WRAPPERS))}; found {content}.')
    if all(key.startswith('module.') for key in checkpoint):
        return {key[len('module.'):]: value for key, value in checkpoint.items()}
    return dict(checkpoint)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in 'biuf'


def save_with_hash(state_dict: Mapping[str, Tensor], path: Union[str, Path]) -> Path:
    """Write ``{'state_dict': ...}`` atomically as ``name-xxxxxxxx.pth``.

    Args:
        state_dict (Mapping[str, Tensor]): Tensors by name.
        path (str | Path): Target; the hash is inserted before its suffix.

    Returns:
        Path: The file written. The same tensors always give the same file and name.
    """
    path = Path(path).expanduser()
    # Through a buffer: torch.save stores the name of the file it writes to, which would make the
    # hash depend on the target.
    buffer = io.BytesIO()
    torch.save({'state_dict': dict(state_dict)}, buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()[:8]
    target = path.with_name(f'{_HASHED.sub("", path.stem)}-{digest}{path.suffix or ".pth"}')
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix='.', suffix='.partial')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target
