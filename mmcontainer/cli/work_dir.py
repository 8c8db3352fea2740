"""One training per work dir, and none on top of another."""
import fcntl
import os
from pathlib import Path

from ..engine.checkpoint_hook import recorded_checkpoint
from ..errors import UserError
from .distributed import launched_rank

_LOCK = '.lock'
# Kept open, and with it the lock, until the process ends, however it ends.
_held = []


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
    found = sorted(path.name for path in folder.glob('[!.]*.pth') if path.is_file())
    recorded = recorded_checkpoint(folder)
    if not found and recorded is not None and recorded.is_file():  # CheckpointHook has an out_dir
        found = [str(recorded)]
    if found and not goes_on:
        raise UserError(
            f'{folder} holds checkpoints of a training already ({", ".join(found[:4])}'
            f'{", ..." if len(found) > 4 else ""}). Add --resume to go on with it, choose another '
            'folder with --work-dir, or add --overwrite to start anew and lose them one by one.')
    if launched_rank(launcher):
        return
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
        file.close()
        return
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _held.append(file)
