"""Finding the checkpoint of a work dir that a training goes on from."""
import sys
from pathlib import Path
from typing import Optional

from ..engine.checkpoint_hook import newest_checkpoint, numbered_checkpoints, recorded_checkpoint
from ..errors import UserError
from .tool import typed_command


def find_resume(work_dir: str, checkpoint: str = 'auto') -> tuple[Optional[str], str]:
    """Find the checkpoint to resume from.

    Args:
        work_dir (str): Folder of the run.
        checkpoint (str): A file, or 'auto' for the last whole one in ``work_dir``.

    Returns:
        tuple: The file, None with 'auto' when the run has not written any; and what there is to
        say about the choice, or ''.

    Raises:
        UserError: If the file does not exist, or all files of the run are damaged.
    """
    folder = Path(work_dir)
    if checkpoint != 'auto':
        path = Path(checkpoint).expanduser()
        if not path.is_file():
            found = sorted(map(str, path.parent.glob('*.pth'))) or sorted(
                map(str, folder.glob('*.pth')))
            raise UserError(f'--resume: there is no checkpoint {checkpoint}.'
                            + (f' There is: {", ".join(found)}.' if found else ''))
        return str(path), ''
    recorded, newest = recorded_checkpoint(folder), newest_checkpoint(work_dir)
    if newest is None:
        if recorded is None and not numbered_checkpoints(folder):
            _refuse_best_only(folder)
            return None, ''
        gone = f'{recorded}, which {_fate(recorded)}' if recorded else 'no file'
        damaged = ', '.join(map(str, numbered_checkpoints(folder))) or 'none'
        raise UserError(f'--resume: there is no whole checkpoint in {folder}. last_checkpoint '
                        f'names {gone}; others there, all damaged: {damaged}. Name a checkpoint: '
                        '--resume FILE, or use another --work-dir to start again.')
    if recorded is None:
        return str(newest), f'{folder / "last_checkpoint"} is missing or empty'
    return str(newest), '' if newest == recorded else f'{recorded}, the last one, {_fate(recorded)}'


def _refuse_best_only(folder: Path) -> None:
    best = sorted(map(str, folder.glob('best_*.pth')))
    if best:
        raise UserError(
            f'--resume: {folder} holds nothing but {", ".join(best)}. The best checkpoints have no '
            "state of the optimizer: start with their weights, load_from='FILE', in another "
            '--work-dir.')


def _fate(path: Path) -> str:
    return 'is damaged' if path.is_file() else 'is gone'


def advice_after_interrupt(work_dir: str, started: float, launcher: str = 'none') -> str:
    """Say which checkpoint there is after an interruption, and the command that goes on.

    Args:
        work_dir (str): Folder of the training.
        started (float): Time when it started: older checkpoints may be of another training
            (``--overwrite``), or later ones than it was resumed from.
        launcher (str): What started it.
    """
    newest = newest_checkpoint(work_dir)
    if newest is None or newest.stat().st_mtime < started:
        text = f'No checkpoint has been saved in {work_dir} yet'
        if newest is None:
            return f'{text}: there is nothing to resume from.'
        text += ' since this training started. Start it again as before'
        return f'{text}: {typed_command(sys.argv)}' if launcher == 'none' else f'{text}.'
    there_is = f'The last checkpoint is {newest}. To go on'
    if launcher != 'none':  # dist_train.sh, srun: what was typed is not known here
        return f'{there_is}, start it as before, with --resume added.'
    words = [word for before, word in zip(['', *sys.argv], sys.argv)
             if word != '--overwrite' and not word.startswith('--resume')
             and not (before == '--resume' and not word.startswith('-'))]
    return f'{there_is}: {typed_command(words)} --resume'
