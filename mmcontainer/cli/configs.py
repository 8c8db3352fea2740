"""Finding and reading config files, with messages instead of tracebacks."""
import importlib
import inspect
import linecache
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Optional

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import get_installed_path
from torch import nn

from ..compat import own_folder
from ..errors import UserError, as_user_error
from .config_check import (
    OPTIONAL,
    check_old_keys,
    check_values,
    how_to_install,
    import_custom_modules,
    without_workers,
)
from .options import check_options


def _list_configs() -> list[str]:
    folder = own_folder('configs')
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob('[!_]*/*.py'))


def _packaged(name: str) -> Path:
    """The file of ``package::folder/file.py``."""
    package, _, relative = name.partition('::')
    if package == 'mmcontainer':
        return own_folder('configs') / relative
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
        path = Path(name).expanduser()
        # Elsewhere than in configs/, it is a copy of somebody, whose path has a mistake.
        own = own_folder('configs').joinpath(*path.parts[1:])
        if path.parts[:1] == ('configs', ) and not path.is_file() and own.is_file():
            path = own
    if path.is_file():
        return path
    raise UserError(f'There is no config file {name}.' + _suggestions(name, path))


def own_name(name: str) -> Optional[str]:
    """Name a config of this package as FOLDER/NAME, however it was found; None for any other.

    Args:
        name (str): See :func:`find_config`.
    """
    path = find_config(name)
    own = '/'.join(path.resolve().with_suffix('').parts[-2:])
    file = own_folder('configs') / f'{own}.py'
    # By content: tools of a checkout may run beside an installed package.
    return own if file.is_file() and file.read_bytes() == path.read_bytes() else None


def _suggestions(name: str, path: Path) -> str:
    known = {other: f'mmcontainer::{other}' for other in _list_configs()}
    listing = '\n'.join(f'  {other}' for other in known.values())
    if '::' not in name:
        known.update({'/'.join(file.parts[-2:]): str(file) for file in path.parent.glob('*.py')})
    close = get_close_matches('/'.join(path.parts[-2:]), known, n=3)
    if close:
        return ' Did you mean:\n' + '\n'.join(f'  {known[other]}' for other in close)
    return f' This package has:\n{listing}'


def _frames(error: BaseException) -> Iterator[tuple[str, str, int, dict]]:
    """Yield (file of the code, function, line, local variables), from the outermost frame on."""
    trace, last = error.__traceback__, None
    while trace is not None:
        frame = trace.tb_frame
        if frame is not last:  # one that catches an exception and raises it again is there twice
            yield frame.f_code.co_filename, frame.f_code.co_name, trace.tb_lineno, frame.f_locals
        trace, last = trace.tb_next, frame


def _describe(error: Exception) -> str:
    """Say what went wrong in a config, and where: it may be in one of its bases."""
    reader = inspect.getsourcefile(Config)
    files, place = [], ''
    for source, function, line, variables in _frames(error):
        if source == reader and isinstance(variables.get('filename'), str):
            path = str(Path(variables['filename']).resolve())
            if function in ('_file2dict', '_parse_lazy_import'):
                if path in files:
                    circle = ' -> '.join([*files[files.index(path):], path])
                    return f'its _base_ files form a circle, {circle}.'
                files.append(path)
            place = f' (in {path})'
        elif function == '<module>':  # the code of a config; helpers that it imports lie deeper
            text = linecache.getline(source, line).strip()
            place = f' (in {Path(source).resolve()}, line {line}: {text})'
            break
    if isinstance(error, UnicodeDecodeError):
        return f'text in UTF-8 is expected, found another encoding or no text: {error}{place}'
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    library = next((name for name in OPTIONAL if f'{name} is not installed' in str(error)), None)
    advice = '' if library is None else f'. To have it: {how_to_install(library)}'
    return f'{type(error).__name__}: {text}{place}{advice}'


def build_model(config: dict, scope: str) -> nn.Module:
    """Build a model, or a part of one, from a config.

    Args:
        config (dict): With a ``type``.
        scope (str): ``default_scope`` of the config; becomes that of the process.

    Raises:
        UserError: An argument that a class of this package refuses.
    """
    init_default_scope(scope)
    with as_user_error():
        return MODELS.build(config)


def check_config(cfg: Config) -> Config:
    """Check a config that has been read; mend, in place, what PyTorch would refuse, and say so.

    Raises:
        UserError: A setting of MMDetection 2.x or one that cannot be meant.
    """
    check_old_keys(cfg)
    check_values(cfg)
    for note in without_workers(cfg):
        print(note, flush=True)
    return cfg


def load_config(name: str, options: Optional[dict] = None) -> Config:
    """Read a config file and apply ``--cfg-options``.

    Args:
        name (str): See :func:`find_config`.
        options (dict, optional): Dotted keys to values.

    Raises:
        UserError: File not found, not readable as a config, a setting of MMDetection 2.x or one
            that cannot be meant, or an option without effect.
    """
    path = find_config(name)
    if path.suffix not in ('.py', '.json', '.yaml', '.yml'):
        raise UserError(f'{name} is no config: a .py, .json or .yml file is expected.')
    try:
        cfg = Config.fromfile(str(path), import_custom_modules=False)
        import_custom_modules(cfg)
    except Exception as error:  # a config is a program: it may raise anything
        raise UserError(f'{name} cannot be read as a config: {_describe(error)}') from error
    check_old_keys(cfg)
    if options:
        check_options(cfg, options)
        try:
            cfg.merge_from_dict(options)
            if any(key.startswith('custom_imports') for key in options):
                import_custom_modules(cfg)
        except (ImportError, KeyError, TypeError, ValueError) as error:
            raise UserError(f'--cfg-options: {error}') from error
    return check_config(cfg)
