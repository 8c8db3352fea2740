"""Checkpoints that survive a killed process, and finding the newest of a work dir."""
import os
import re
from pathlib import Path
from typing import Optional

from mmengine.dist import is_main_process, master_only
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from ..checkpoints import CorruptCheckpointError, check_file
from ..checkpoints.files import load_file, write_with_hash
from ..fileio import remove_unfinished, write_atomically

_BACKEND = 'mmcontainer.whole'
_NUMBERED = re.compile(r'(epoch|iter)_(\d+)')


class WholeFileBackend(LocalBackend):
    """MMEngine's local files, written under a temporary name and moved into place."""

    def put(self, obj: bytes, filepath) -> None:
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: Path(temporary).write_bytes(obj))


register_backend(_BACKEND, WholeFileBackend, force=True)


class _LaterRemoval(WholeFileBackend):
    """Remembers which files are to be removed, until :meth:`flush` removes them.

    Args:
        folder (str): Files elsewhere stay: they are those of a run that this one was resumed from.
    """

    def __init__(self, folder: str):
        self._outdated: list[str] = []
        self._folder = os.path.realpath(folder)

    def remove(self, filepath) -> None:
        self._outdated.append(str(filepath))

    rmtree = remove

    def flush(self, kept: set) -> None:
        """Remove the remembered files, except those that were written anew since."""
        for path in self._outdated:
            if path in kept or os.path.realpath(os.path.dirname(path)) != self._folder:
                continue
            if Path(path).is_dir():  # a checkpoint of deepspeed
                super().rmtree(path)
            elif Path(path).is_file():
                super().remove(path)
        self._outdated.clear()


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """:class:`mmengine.hooks.CheckpointHook` that always leaves a whole checkpoint.

    MMEngine removes an outdated checkpoint before it writes the next one in place. A process that
    is killed between the two leaves neither. This hook writes files, ``last_checkpoint`` too, under
    a temporary name, moves them into place, and only then removes outdated ones, so that the disk
    holds one more file for a while. The next training removes unfinished files of a killed one.
    Other places than local folders (``backend_args``) are written as MMEngine does. Names of
    published files hold the hash of the very file. Files of another folder are never removed: the
    best checkpoint of a run that was resumed in a new work dir stays.
    """

    _is_saving_best = False

    def before_train(self, runner) -> None:
        """Choose the backend, unless the config does, and remove files of a killed training."""
        is_local = self.backend_args is None and self.file_client_args is None and (
            '://' not in str(self.out_dir or runner.work_dir))
        if is_local:
            self.backend_args = dict(backend=_BACKEND)
        super().before_train(runner)
        if is_local:
            self.file_backend = _LaterRemoval(self.out_dir)
            if is_main_process():
                remove_unfinished(Path(self.out_dir), '*.pth')
                remove_unfinished(Path(runner.work_dir), 'last_checkpoint')

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        """Save, then say which file is the last one, then remove what is outdated."""
        if not isinstance(self.file_backend, _LaterRemoval):
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                self.file_backend.remove(self._path(self.keep_ckpt_ids.popleft()))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir, self.filename_tmpl.format(step), save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
            backend_args=self.backend_args, **self.args)
        if is_main_process():
            self.file_backend.put(self.last_ckpt.encode(), Path(runner.work_dir, 'last_checkpoint'))
        self._remove_outdated()

    def _save_best_checkpoint(self, runner, metrics) -> None:
        """Save the best checkpoint, and the last one anew; remove nothing before both are there."""
        self._is_saving_best = True
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self._is_saving_best = False
        self._remove_outdated()

    @master_only
    def _publish_model(self, runner, ckpt_path: str) -> None:
        """Write the ``published_keys`` of a checkpoint beside it."""
        if not isinstance(self.file_backend, _LaterRemoval):
            super()._publish_model(runner, ckpt_path)
            return
        content = load_file(ckpt_path)
        path = write_with_hash(
            {key: content[key] for key in self.published_keys if key in content}, ckpt_path)
        runner.logger.info(f'{path} holds {", ".join(self.published_keys)} of {ckpt_path}.')

    def _path(self, step: int) -> str:
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))

    def _remove_outdated(self) -> None:
        if self._is_saving_best or not isinstance(self.file_backend, _LaterRemoval):
            return
        best = getattr(self, 'best_ckpt_path_dict', None) or {
            '': getattr(self, 'best_ckpt_path', None)}
        if is_main_process():
            self.file_backend.flush({self.last_ckpt, *best.values()})


def is_checkpoint_due(runner, by_epoch: bool) -> bool:
    """Tell whether a checkpoint will be saved after this epoch, or after this iteration."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.by_epoch == by_epoch:
            is_multiple, is_last = ((hook.every_n_epochs, hook.is_last_train_epoch) if by_epoch else
                                    (hook.every_n_train_iters, hook.is_last_train_iter))
            if is_multiple(runner, hook.interval, hook.save_begin) or (
                    hook.save_last and is_last(runner)):
                return True
    return False


def numbered_checkpoints(folder: Path) -> list[Path]:
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
    candidates = [recorded_checkpoint(folder), *numbered_checkpoints(folder)]
    return next((path for path in candidates
                 if path is not None and path.is_file() and _is_whole(path)), None)
