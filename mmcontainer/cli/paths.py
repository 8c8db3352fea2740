"""Checks, before the work begins, that results can be written; one training per work dir."""
import fcntl
import os
import tempfile
from pathlib import Path
from typing import TextIO

from ..engine.checkpoint_hook import recorded_checkpoint
from ..errors import UserError
from .distributed import launched_rank

_LOCK = '.lock'
# Kept open, and with it the lock, until the process ends, however it ends.
_held = []


def check_writable_folder(path, option: str) -> Path:
    """Make a folder and try to write into it.

    Args:
        path (str | Path): The folder; '~' is expanded.
        option (str): How the user named it, for the message.

    Raises:
        UserError: A file, a place below one, or no permission.
    """
    try:
        folder = Path(path).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of an unknown user
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'{option} {path}: this folder cannot be written ({reason}). Name another '
                        'one, or change its permissions.') from error
    return folder


def check_writable_file(path, option: str) -> Path:
    """Make the folder of a file that will be written, and try to write there.

    Raises:
        UserError: The path is a folder, or its folder cannot be written.
    """
    file = Path(os.path.expanduser(path))  # a ~ of an unknown user stays, and is refused below
    if file.is_dir() or str(path).endswith(os.sep):
        raise UserError(f'{option} {path}: the name of a file is expected, this is a folder.')
    return check_writable_folder(file.parent, option) / file.name


def held_checkpoints(folder: Path) -> str:
    """Names of the checkpoints in a work dir, for a message; empty without any."""
    found = sorted(path.name for path in folder.glob('[!.]*.pth') if path.is_file())
    recorded = recorded_checkpoint(folder)
    if not found and recorded is not None and recorded.is_file():  # CheckpointHook has an out_dir
        found = [str(recorded)]
    return ', '.join([*found[:4], '...'] if len(found) > 4 else found)


def claim_work_dir(work_dir: str, goes_on: bool, launcher: str = 'none') -> None:
    """Make a work dir and lock it for this training; processes of one training share it.

    Args:
        work_dir (str): Folder of logs and checkpoints.
        goes_on (bool): Whether the training resumes, or may overwrite what is there.
        launcher (str): What started the processes of this training; the first one locks.

    Raises:
        UserError: Another training runs there; or there are checkpoints of one, which this one
            would overwrite one by one.
    """
    folder = Path(work_dir)
    found = held_checkpoints(folder)
    if found and not goes_on:
        raise UserError(
            f'{folder} holds checkpoints of a training already ({found}). Add --resume to go on '
            'with it, choose another folder with --work-dir, or add --overwrite to start anew and '
            'lose them one by one.')
    if launched_rank(launcher):
        return
    file = _lock(folder)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _held.append(file)


def check_unclaimed(work_dir: Path) -> None:
    """Check that no training is writing into a folder that exists.

    Raises:
        UserError: One is.
    """
    _lock(work_dir).close()


def _lock(folder: Path) -> TextIO:
    """Lock a folder until the file that is returned is closed, or the process ends."""
    file = open(folder / _LOCK, 'a+', encoding='utf-8')
    try:
        # Not flock: workers of a data loader would inherit that, and outlive a killed training.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        owner = file.read().strip() or 'unknown'
        file.close()
        raise UserError(f'Another training (process {owner}) is writing into {folder}: wait for '
                        'it, stop it, or choose another folder with --work-dir.') from error
    except OSError:  # a file system that has no locks
        pass
    return file
