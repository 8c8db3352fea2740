"""Which checkpoint of a work dir a training goes on from."""
import re
import shlex
import sys
from pathlib import Path
from typing import Optional

from ..checkpoints import CorruptCheckpointError, check_file
from .errors import UserError

_NUMBERED = re.compile(r'(epoch|iter)_(\d+)')


def _numbered(folder: Path) -> list[Path]:
    """Checkpoints that training wrote in a folder, the newest first."""
    found = [path for path in folder.glob('*.pth') if _NUMBERED.fullmatch(path.stem)]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, int(
        _NUMBERED.fullmatch(path.stem).group(2))), reverse=True)


def _is_whole(path: Path) -> bool:
    try:
        check_file(path)
    except (CorruptCheckpointError, OSError):
        return False
    return True


def recorded_checkpoint(folder: Path) -> Optional[Path]:
    """The file that ``last_checkpoint`` names, whether it exists or not."""
    record = folder / 'last_checkpoint'
    text = record.read_text(encoding='utf-8', errors='replace').strip() if record.is_file() else ''
    if not text:
        return None
    # It is recorded as it was named then; the current folder or the work dir may have moved since.
    named = Path(text.replace('\x00', ''))  # a crash may leave zeros
    return folder / named.name if (folder / named.name).is_file() else named


def newest_checkpoint(work_dir: str) -> Optional[Path]:
    """The newest whole checkpoint of a work dir, the recorded one first; None without any."""
    folder = Path(work_dir)
    candidates = [recorded_checkpoint(folder), *_numbered(folder)]
    return next((path for path in candidates
                 if path is not None and path.is_file() and _is_whole(path)), None)


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
        if recorded is None and not _numbered(folder):
            _refuse_best_only(folder)
            return None, ''
        gone = f'{recorded}, which {_fate(recorded)}' if recorded else 'no file'
        damaged = ', '.join(map(str, _numbered(folder))) or 'none'
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


def advice_after_interrupt(work_dir: str, launcher: str = 'none') -> str:
    """Say which checkpoint there is after an interruption, and the command that goes on."""
    newest = newest_checkpoint(work_dir)
    if newest is None:
        return f'No checkpoint has been saved in {work_dir} yet: there is nothing to resume from.'
    there_is = f'The last checkpoint is {newest}. To go on'
    if launcher != 'none':  # dist_train.sh, srun: what was typed is not known here
        return f'{there_is}, start it as before, with --resume added.'
    words = [word for before, word in zip(['', *sys.argv], sys.argv)
             if word != '--overwrite' and not word.startswith('--resume')
             and not (before == '--resume' and not word.startswith('-'))]
    return f'{there_is}: {shlex.quote(sys.executable)} {shlex.join(words)} --resume'
