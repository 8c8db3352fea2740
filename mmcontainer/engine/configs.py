"""Finding and reading config files, with messages instead of tracebacks."""
import importlib
from difflib import get_close_matches
from pathlib import Path
from typing import Optional

from mmengine.config import Config
from mmengine.utils import get_installed_path

from .errors import UserError
from .options import check_options

_PACKAGE = Path(__file__).resolve().parents[1]


def config_folder() -> Path:
    """Folder of the configs of this package: installed, or of a checkout that is not."""
    installed = _PACKAGE / '.mim' / 'configs'
    return installed if installed.is_dir() else _PACKAGE.parent / 'configs'


def _list_configs() -> list[str]:
    folder = config_folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob('[!_]*/*.py'))


def _packaged(name: str) -> Path:
    """The file of ``package::folder/file.py``."""
    package, _, relative = name.partition('::')
    if package == 'mmcontainer':
        return config_folder() / relative
    try:
        importlib.import_module(package)
        return Path(get_installed_path(package)) / '.mim' / 'configs' / relative
    except ImportError as error:
        raise UserError(f'{name}: the package {package!r} is not installed.') from error


def find_config(name: str) -> Path:
    """Find a config file.

    Args:
        name (str): A path, relative to the current folder or to this package's ``configs/``, or
            ``package::folder/file.py`` for a config that an installed package brings along.

    Raises:
        UserError: If there is no such file; lists the names that come closest.
    """
    if '::' in name:
        path = _packaged(name)
    else:
        own = config_folder() / name.partition('configs/')[2] if 'configs/' in name else None
        path = Path(name).expanduser()
        if not (path.is_file() or path.is_absolute()) and own is not None and own.is_file():
            path = own
    if path.is_file():
        return path
    raise UserError(f'There is no config file {name}.' + _suggestions(name, path))


def _suggestions(name: str, path: Path) -> str:
    known = {other: f'mmcontainer::{other}' for other in _list_configs()}
    listing = '\n'.join(f'  {other}' for other in known.values())
    if '::' not in name:
        known.update({'/'.join(file.parts[-2:]): str(file) for file in path.parent.glob('*.py')})
    close = get_close_matches('/'.join(path.parts[-2:]), known, n=3)
    if close:
        return ' Did you mean:\n' + '\n'.join(f'  {known[other]}' for other in close)
    return f' This package has:\n{listing}'


def load_config(name: str, options: Optional[dict] = None) -> Config:
    """Read a config file and apply ``--cfg-options``.

    Args:
        name (str): See :func:`find_config`.
        options (dict, optional): Dotted keys to values.

    Raises:
        UserError: File not found, not readable as a config, or an option without effect.
    """
    path = find_config(name)
    if path.suffix not in ('.py', '.json', '.yaml', '.yml'):
        raise UserError(f'{name} is no config: a .py, .json or .yml file is expected.')
    try:
        cfg = Config.fromfile(str(path))
    except (SyntaxError, FileNotFoundError, KeyError, ImportError, TypeError) as error:
        raise UserError(f'{name} cannot be read as a config: {error}') from error
    if options:
        check_options(cfg, options)
        try:
            cfg.merge_from_dict(options)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f'--cfg-options: {error}') from error
    return cfg
