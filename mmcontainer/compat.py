"""Versions of torch and OpenMMLab that work, and two seams that MMEngine leaves to plugins.

Only the standard library is imported here at the top: ``doctor.py`` uses these tables where torch
or mmcv cannot be imported.
"""
import os
import re
import shlex
import sys
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple, Optional

# {module: requirement} of requirements/{onedl,upstream}/pyproject.toml.
STACKS = {
    'onedl': {
        'mmengine': 'onedl-mmengine==0.10.12',
        'mmcv': 'onedl-mmcv==2.3.6',
        'mmdet': 'onedl-mmdetection==3.5.1',
        'mmpretrain': 'onedl-mmpretrain==1.3.6',
    },
    'upstream': {
        'mmengine': 'mmengine==0.10.7',
        'mmcv': 'mmcv==2.1.0',
        'mmdet': 'mmdet==3.3.0',
        'mmpretrain': 'mmpretrain==1.2.0',
    },
}


class Supported(NamedTuple):
    """The versions of one module that work: ``minimum <= version < below``."""
    minimum: str
    below: Optional[str]
    mandatory: bool
    # The names under which pip may know the module.
    distributions: tuple

    @property
    def range(self):
        """The range as pip writes it, for example '>=2.0.0,<2.4.0'."""
        return f'>={self.minimum}' + (f',<{self.below}' if self.below else '')

    def accepts(self, version):
        """True if ``version`` lies in the range; suffixes such as 'rc4' or '+cpu' do not count."""
        return (release(self.minimum) <= release(version)
                and (self.below is None or release(version) < release(self.below)))


# docs/compatibility.md says which versions were tested together. Within a major release mmdet and
# mmpretrain check mmcv themselves.
SUPPORTED = {
    'torch': Supported('2.1.0', None, True, ('torch',)),
    'mmengine': Supported('0.10.0', '1.0.0', True, ('onedl-mmengine', 'mmengine')),
    'mmcv': Supported('2.0.0', '2.4.0', True, ('onedl-mmcv', 'mmcv', 'mmcv-lite')),
    'mmdet': Supported('3.0.0', '4.0.0', False, ('onedl-mmdetection', 'mmdet')),
    'mmpretrain': Supported('1.0.0', '2.0.0', False, ('onedl-mmpretrain', 'mmpretrain')),
}


class IncompatibleVersionError(ImportError):
    """A package mmcontainer needs is missing, or has a version it does not work with."""


def release(version):
    """Return the first three numbers of a version: '2.1.0rc4+cu121' -> (2, 1, 0)."""
    numbers = re.match(r'\d+(?:\.\d+)*', version)
    if numbers is None:
        raise ValueError(f'expected a version such as 2.1.0, found {version!r}')
    parts = [int(part) for part in numbers.group().split('.')][:3]
    return tuple(parts + [0] * (3 - len(parts)))


def distribution_version(name):
    """Return the version pip has on record for a distribution, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def owners(module):
    """Return the installed distributions that provide a module of ``SUPPORTED``."""
    return [name for name in SUPPORTED[module].distributions if distribution_version(name)]


def installed_version(module):
    """Return the version of the code that ``import`` would run, without running it.

    ``version.py`` beside the module is asked before pip's record: two distributions may own the
    same module (onedl-mmcv and mmcv), and the record of either may be of files overwritten since.

    Args:
        module (str): A key of ``SUPPORTED``.

    Returns:
        str | None: The version, None when the module cannot be found.
    """
    spec = util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    version_file = Path(spec.origin).with_name('version.py')
    if version_file.is_file():
        literal = re.search(r"^__version__\s*(?::\s*\w+)?\s*=\s*['\"]([^'\"]+)['\"]",
                            version_file.read_text(encoding='utf-8'), re.MULTILINE)
        if literal:
            return literal.group(1)
    return next(map(distribution_version, owners(module)), None)


def current_stack():
    """Return 'upstream' where only upstream packages are installed, else the default 'onedl'."""
    names = [name for module in STACKS['onedl'] for name in owners(module)]
    return 'upstream' if names and not any(n.startswith('onedl-') for n in names) else 'onedl'


def own_folder(name):
    """Path of 'configs' or 'tools' of this package: installed, or of a checkout that is not."""
    package = Path(__file__).resolve().parent
    installed = package / '.mim' / name
    return installed if installed.is_dir() else package.parent / name


def short_path(path):
    """Return a path as one would type it here: relative if it is below the current folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith('..') else relative


def python_command():
    """Return how to call this very Python from the current folder, as a shell understands it."""
    return shlex.quote(short_path(sys.executable))


def doctor_command():
    """Return the command that runs the doctor, also where mmcontainer cannot be imported."""
    file = Path(__file__).with_name('doctor.py')
    return f'{python_command()} {shlex.quote(short_path(file))}'


def install_command(module, stack):
    """Return the shell command that installs ``module`` in the version this project is tested with.

    mmcv is compiled on the spot. Isolation would hide torch from its build and give a wheel
    without operators; pip's cache would return a wheel compiled against another torch.
    """
    pip = f'{python_command()} -m pip install'
    if module == 'torch':
        return f'{pip} "torch>={SUPPORTED["torch"].minimum}" torchvision'
    requirement = STACKS[stack][module]
    if module != 'mmcv':
        return f'{pip} "{requirement}"'
    name = requirement.partition('==')[0]
    return (f'{pip} "setuptools>=80,<81" wheel packaging ninja psutil && '
            f'MMCV_WITH_OPS=1 {pip} --no-build-isolation --no-cache-dir --force-reinstall '
            f'--no-deps --no-binary {name} "{requirement}" && {pip} "{requirement}"')


def check_versions():
    """Check that every package is there in a version this project works with.

    torch, mmengine and mmcv are mandatory; mmdet and mmpretrain may be missing, but not of a
    version that would fail later in a less readable way.

    Raises:
        IncompatibleVersionError: One sentence: what was found, what is expected, what to run.
    """
    for module, supported in SUPPORTED.items():
        version = installed_version(module)
        if version is None and not supported.mandatory:
            continue
        if version is None or not supported.accepts(version):
            found = 'it is not installed' if version is None else f'found {version}'
            raise IncompatibleVersionError(
                f'mmcontainer needs {module} {supported.range}, but {found}: run '
                f'`{install_command(module, current_stack())}`, and `{doctor_command()}` if that '
                'does not help.')


def register_config_scope():
    """Let MMEngine resolve ``mmcontainer::...`` and ``mmseg::...`` in configs.

    It does so for known names only, and knows MMSegmentation by that of one distribution,
    mmsegmentation, which others do not have.

    Upstream MMEngine looks beside the *metadata* of a distribution, which need not be where the
    imported package is. The name of a module without a distribution of its own makes it ask the
    import system instead, which knows.
    """
    from mmengine.config.utils import MODULE2PACKAGE
    is_upstream = 'mmengine' in owners('mmengine')
    MODULE2PACKAGE['mmseg'] = 'mmseg'
    MODULE2PACKAGE['mmcontainer'] = 'mmcontainer.version' if is_upstream else 'mmcontainer'


def history_buffer_method(owner, name):
    """``getattr`` for the weights-only unpickler, restricted to the methods of HistoryBuffer."""
    from mmengine.logging import HistoryBuffer
    if owner is not HistoryBuffer or name not in HistoryBuffer._statistics_methods:
        raise ValueError(f'a checkpoint may not ask for the attribute {name!r} of {owner!r}')
    return getattr(owner, name)


def checkpoint_globals():
    """What MMEngine's own checkpoints name beside tensors: HistoryBuffer objects.

    They are made of NumPy arrays and scalars, under the names of NumPy 1 and 2, and refer to their
    own statistics methods. Nothing of this can run foreign code.

    Returns:
        dict[str, object]: {full name: what stands for it}.
    """
    import numpy as np
    from mmengine.logging import HistoryBuffer
    HistoryBuffer()  # fills the table of statistics methods that history_buffer_method consults
    core = np.core if release(np.__version__) < (2, 0, 0) else np._core
    names = ('numpy.core.multiarray', 'numpy._core.multiarray')
    return {
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        **{f'{name}._reconstruct': core.multiarray._reconstruct for name in names},
        **{f'{name}.scalar': core.multiarray.scalar for name in names},
        'builtins.getattr': history_buffer_method,
    }


def allow_mmengine_checkpoints():
    """Let ``torch.load(weights_only=True)`` read what MMEngine's own checkpoints hold.

    From torch 2.6 on this is the default of ``torch.load``, and upstream MMEngine cannot resume
    from its checkpoints.
    """
    from .torch_compat import HAS_SAFE_LOAD
    if not HAS_SAFE_LOAD:
        return
    import numpy as np
    import torch
    kinds = {type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', 'u4', 'u8', '?')}
    torch.serialization.add_safe_globals(
        [(value, name) for name, value in checkpoint_globals().items()] + list(kinds))
