"""The ledger of reproduced rows: one JSON object per line, with all that a result depends on."""
import datetime
import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Optional

import torch

from ..compat import SUPPORTED, installed_version
from ..errors import UserError
from ..fileio import write_atomically
from ..machine import cpu_name, git
from ..version import __version__

LEDGER = Path('results', 'ledger.jsonl')


def read_ledger(path: Path) -> tuple[list[dict], list[str]]:
    """Read a ledger.

    Args:
        path (Path): A file that need not exist.

    Returns:
        tuple: The whole entries in the order of the file; and one sentence for every line that is
        none, of a writer that was interrupted, for example.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        content = path.read_bytes() if path.exists() else b''
    except OSError as error:
        raise UserError(f'The ledger {path} cannot be read ({error.strerror}).') from error
    entries, problems = [], []
    for number, line in enumerate(content.split(b'\n'), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict) and isinstance(entry.get('row'), str):
            entries.append(entry)
        else:
            problems.append(f'line {number} of {path} is no whole entry, and is left as it is.')
    return entries, problems


def find_entry(path: Path, run: str) -> Optional[dict]:
    """The entry of a run in a ledger, None if it has none."""
    return next((entry for entry in read_ledger(path)[0] if entry.get('run') == run), None)


def append_entry(path: Path, entry: Mapping[str, Any]) -> bool:
    """Append an entry to a ledger, once per run.

    The file is replaced as a whole, so that an interruption leaves the old or the new one. What is
    in it stays byte by byte; a last line without an end gets one.

    Args:
        path (Path): Made if it does not exist, with its folder.
        entry (Mapping): What to write; 'run' tells runs apart.

    Returns:
        bool: False if the run has an entry already, so that nothing was written.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if find_entry(path, entry['run']) is not None:
            return False
        old = path.read_bytes() if path.exists() else b''
        if old and not old.endswith(b'\n'):
            old += b'\n'
        line = json.dumps(entry, ensure_ascii=False).encode() + b'\n'
        write_atomically(path, lambda file: Path(file).write_bytes(old + line))
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time write; a file system without locks has none."""
    # A file of its own: the ledger itself is replaced by another one.
    with open(path.with_name(f'.{path.name}.lock'), 'a', encoding='utf-8') as file:
        with suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def config_hash(cfg, with_seed: bool = True) -> str:
    """A hash of all that a config says, bases and options included, whatever its formatting.

    Args:
        cfg (Config): Its keys are sorted, so that their order does not matter.
        with_seed (bool): Whether ``randomness`` counts; without, trainings that differ in the seed
            alone have the same hash.

    Returns:
        str: 16 hexadecimal digits.
    """
    content = {key: value for key, value in cfg.to_dict().items()
               if with_seed or key != 'randomness'}
    text = json.dumps(content, sort_keys=True, default=_name)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _name(value: Any) -> str:
    """A class or function by its name; ``repr`` may hold an address in memory."""
    return getattr(value, '__qualname__', None) or repr(value)


def describe_hardware() -> str:
    """The GPUs of this machine, or its CPU: '8 x NVIDIA A100', '2 cores of AMD EPYC'."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return ', '.join(f'{names.count(name)} x {name}' for name in dict.fromkeys(names))
    return f'{os.cpu_count()} cores of {cpu_name()}'


def describe_code() -> dict[str, Any]:
    """The ``revision`` of the checkout, and whether it is ``dirty``, changed since; or None."""
    # The results of other runs are no other code.
    changes = git('status', '--porcelain', '--untracked-files=no', '--', f':!{LEDGER}')
    return dict(revision=git('rev-parse', 'HEAD'), dirty=None if changes is None else bool(changes))


def describe_environment() -> dict[str, Any]:
    """What a result depends on beside config and code: versions, hardware, date, who, and so on.

    ``threads`` are those of a CPU that trains, None beside a GPU.
    """
    return dict(
        versions={**{name: installed_version(name) for name in SUPPORTED},
                  'mmcontainer': __version__, 'python': platform.python_version()},
        hardware=describe_hardware(),
        threads=None if torch.cuda.is_available() else torch.get_num_threads(),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        by=git('config', 'user.name'))
