"""Reading and writing checkpoint files without executing code and without half-written files."""
import argparse
import hashlib
import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import torch
from torch import Tensor

from ..compat import allow_mmengine_checkpoints
from ..fileio import write_atomically
from ..torch_compat import HAS_SAFE_LOAD, torch_load_as_called
from .integrity import check_file, corrupt, hash_in_name, is_archive, is_safetensors
from .restricted import load_archive

# Plain records that training scripts put beside their weights. Configs of yacs become dicts.
_RECORDS = {'argparse.Namespace': argparse.Namespace, 'yacs.config.CfgNode': OrderedDict}
# torch.save's files of before 2020 begin like this, behind the two bytes of the pickle protocol.
_TORCH_MAGIC = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
# torch.load raises these for files that are damaged, or of something else.
_DAMAGE = (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError,
           AttributeError, AssertionError, OverflowError, MemoryError)


class UnsafeCheckpointError(RuntimeError):
    """A file that can only be read by executing code stored inside of it."""


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
    hashed = [p for p in path.parent.glob(f'{path.stem}-*{path.suffix}')
              if hash_in_name(p) and p.stem.rpartition('-')[0] == path.stem]
    if len(hashed) > 1:
        raise FileNotFoundError(f'{path} does not exist and several files could stand for it: '
                                f'{", ".join(sorted(map(str, hashed)))}. Keep one, or name one.')
    if not hashed:
        raise FileNotFoundError(f'There is no file {path}.')
    return hashed[0]


def load_file(path: Union[str, Path]) -> Any:
    """Read a checkpoint onto the CPU without running any code of it.

    Files of PyTorch are read with ``weights_only=True``. Records that training scripts put beside
    their weights (``argparse.Namespace``, and configs of yacs, which become dicts) are allowed.
    Files of safetensors are recognised by their content.

    Args:
        path (str | Path): File, see :func:`resolve_path`.

    Returns:
        Any: Whatever the file holds, usually a dict.

    Raises:
        FileNotFoundError: No such file.
        UnsafeCheckpointError: Reading it would execute code of the file.
        CorruptCheckpointError: It is truncated or damaged, the content hash in its name is wrong,
            or it is something else.
        ImportError: It is one of safetensors, which is not installed.
    """
    path = resolve_path(path)
    check_file(path)
    if is_safetensors(path):
        return _load_safetensors(path)
    if _is_plain_pickle(path):
        raise UnsafeCheckpointError(_refusal(
            path, 'is a plain pickle, not a file of torch.save',
            "pickle.load(open('OLD.pkl', 'rb'), encoding='latin1')"))
    if not HAS_SAFE_LOAD and not is_archive(path):
        if not _is_of_before_2020(path):
            raise corrupt(path, 'PyTorch cannot read it')
        raise UnsafeCheckpointError(
            f'{path} is in the format that torch.save had before 2020. PyTorch {torch.__version__} '
            'cannot read it without the risk of running code in it (CVE-2025-32434); from 2.6 on '
            "it can. Read it there, or where you trust it, and save it again: torch.save("
            "torch.load('OLD.pth', map_location='cpu'), 'NEW.pth').")
    try:
        return _load_safely(path) if HAS_SAFE_LOAD else load_archive(path, _RECORDS)
    except pickle.UnpicklingError as error:
        # PyTorch raises this for forbidden objects and for garbage alike; only its text differs.
        forbidden = re.search(r'(?:Unsupported global: GLOBAL|Trying to (?:load|call reduce for)|'
                              r'Unsupported class|Can only build)\s+(\S+)', str(error))
        if forbidden is None:
            raise corrupt(path, 'PyTorch cannot read it') from error
        raise UnsafeCheckpointError(_refusal(
            path, f'contains {forbidden.group(1).rstrip(".")!r}, not just tensors',
            "torch.load('OLD.pth', weights_only=False)")) from error
    except PermissionError:
        raise
    except _DAMAGE as error:
        raise corrupt(path, 'PyTorch cannot read it') from error


def let_mmengine_read_safely() -> None:
    """Let MMEngine read local files as :func:`load_file` does, where PyTorch itself is not safe."""
    if not HAS_SAFE_LOAD:
        from mmengine.runner import CheckpointLoader
        CheckpointLoader.register_scheme(
            '', lambda filename, map_location=None: load_file(filename), force=True)


def _load_safely(path: Path) -> Any:
    # Again, because the maintained fork of MMEngine withdraws it whenever it has read a checkpoint.
    allow_mmengine_checkpoints()
    records = [(kind, name) for name, kind in _RECORDS.items()]
    with torch.serialization.safe_globals(records), torch_load_as_called():
        return torch.load(path, map_location='cpu', weights_only=True)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load
    except ImportError as error:
        raise ImportError(f'{path} is a file of safetensors, and that package is not installed: '
                          'pip install safetensors') from error
    try:
        return load(path)
    except SafetensorError as error:
        raise corrupt(path, f'safetensors cannot read it ({error})') from error


def _is_of_before_2020(path: Path) -> bool:
    with open(path, 'rb') as file:
        return file.read(2 + len(_TORCH_MAGIC))[2:] == _TORCH_MAGIC


def _is_plain_pickle(path: Path) -> bool:
    """Tell whether a file was written by ``pickle.dump``, as detectron2's are, not by PyTorch."""
    with open(path, 'rb') as file:
        head = file.read(2 + len(_TORCH_MAGIC))
    return (head.startswith((b'\x80\x02', b'\x80\x03', b'\x80\x04', b'\x80\x05'))
            and not _TORCH_MAGIC.startswith(head[2:]))


def _refusal(path: Path, what: str, load: str) -> str:
    return (f'{path} is refused: to read it, Python would have to run code stored in the file '
            f'(it {what}). If you trust where it came from, extract the weights once, in a '
            'throw-away environment, and use the new file:\n'
            f'  python -c "import pickle, torch; c = {load}; '
            "c = c.get('model', c.get('state_dict', c)); "
            "torch.save({k: torch.as_tensor(v) for k, v in c.items()}, 'NEW.pth')\"")


def save_with_hash(state_dict: Mapping[str, Tensor], path: Union[str, Path]) -> Path:
    """Write ``{'state_dict': ...}`` atomically as ``name-xxxxxxxx.pth``.

    Args:
        state_dict (Mapping[str, Tensor]): Tensors by name.
        path (str | Path): Target; the hash is inserted before its suffix.

    Returns:
        Path: The file written. The same tensors always give the same file and name.
    """
    return write_with_hash({'state_dict': dict(state_dict)}, path)


def write_with_hash(content: Mapping[str, Any], path: Union[str, Path]) -> Path:
    """Write what a checkpoint holds, as :func:`save_with_hash` does."""
    path = Path(path).expanduser()
    # Through a buffer: torch.save stores the name of the file it writes to, which would make the
    # hash depend on the target.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    written = buffer.getvalue()
    digest = hashlib.sha256(written).hexdigest()[:8]
    stem = path.stem[:-9] if hash_in_name(path) else path.stem
    target = path.with_name(f'{stem}-{digest}{path.suffix or ".pth"}')
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: Path(file).write_bytes(written))
    return target
