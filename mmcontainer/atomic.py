"""Files that are there whole or not at all."""
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(target: Path, write: Callable[[str], Any]) -> None:
    """Let ``write`` fill a temporary file beside the target, which then takes its place.

    The content has reached the disk before the name changes, so that not even a crash of the
    machine leaves a part of it under the name.

    Args:
        target (Path): File to make or replace; its folder exists.
        write (Callable): Gets the path of the temporary file, which has the target's suffix.
    """
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f'.{target.stem[:80]}.',
                                         suffix=target.suffix)
    os.close(handle)
    try:
        write(temporary)
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
