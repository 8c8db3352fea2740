"""Places that results go to, tried before the work begins."""
import os
import tempfile
from pathlib import Path

from ..errors import UserError


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
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of nobody
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'{option} {path}: this folder cannot be written ({reason}). Name another '
                        'one, or change its permissions.') from error
    return folder


def check_writable_file(path, option: str) -> Path:
    """Make the folder of a file that will be written, and try to write there.

    Raises:
        UserError: The path is a folder, or its folder cannot be written.
    """
    file = Path(os.path.expanduser(path))  # leaves a ~ of nobody, which the folder is refused for
    if file.is_dir() or str(path).endswith(os.sep):
        raise UserError(f'{option} {path}: the name of a file is expected, this is a folder.')
    return check_writable_folder(file.parent, option) / file.name
