"""Files that are there whole or not at all."""
import filecmp
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_atomically(target: Path, write: Callable[[str], Any]) -> None:
    """Let ``write`` fill a temporary file beside the target, which then takes its place.

    The content has reached the disk before the name changes, so that not even a crash of the
    machine leaves a part of it under the name.

    Args:
        target (Path): File to make or replace; its folder exists.
        write (Callable): Gets the path of the temporary file, which has the target's suffix.

    Raises:
        OSError: It cannot be written; ``filename`` is the target. Nothing of it stays.
    """
    # Letters of four bytes are the most that a name of 255 bytes has room for.
    temporary = target.with_name(
        f'.{target.stem[:40]}.unfinished-{secrets.token_hex(4)}{target.suffix}')
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        write(str(temporary))
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(target)
        raise
    _sync_folder(target.parent)


def write_text(target: Path, text: str) -> None:
    """Write a file of text; see :func:`write_atomically`."""
    write_atomically(target, lambda file: Path(file).write_text(text, encoding='utf-8'))


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths are one file, or files of the same content."""
    if one.resolve() == other.resolve():
        return True
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def _sync_folder(folder: Path) -> None:
    """Let the new name reach the disk as well, where a file system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path, name: str) -> None:
    """Remove what a killed :func:`write_atomically` left of files whose names match a pattern."""
    pattern = Path(name)
    for file in folder.glob(f'.{pattern.stem}.unfinished-{"[0-9a-f]" * 8}{pattern.suffix}'):
        file.unlink()
