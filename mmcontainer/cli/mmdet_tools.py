"""Running the tools that MMDetection installs, by name."""
import importlib.util
import runpy
import sys
import warnings
from difflib import get_close_matches
from pathlib import Path

import torch

from ..checkpoints.files import load_file
from ..errors import UserError, as_user_error
from ..torch_compat import HAS_SAFE_LOAD

_LEAST_INCHES = (6, 5)
_ABOVE = dict(loc='lower left', bbox_to_anchor=(0, 1), fontsize='small', frameon=False)


def find_tools() -> dict[str, Path]:
    """Return {name: file} of MMDetection's installed tools: analyze_logs, browse_dataset ...

    Raises:
        UserError: If MMDetection is not installed.
    """
    spec = importlib.util.find_spec('mmdet')
    if spec is None or spec.origin is None:
        raise UserError('MMDetection is not installed: run `python -m mmcontainer.doctor`.')
    folder = Path(spec.origin).parent / '.mim' / 'tools'
    # The upper browse_dataset.py comes last: mot/browse_dataset.py must not hide it.
    files = sorted(folder.rglob('*.py'), key=lambda file: (-len(file.parts), file))
    return {file.stem: file for file in files}


def make_figures_readable() -> None:
    """Mend what MMDetection's tools draw, by pyplot's defaults, for the rest of the process.

    ``confusion_matrix`` makes figures half an inch per class, so that labels of few classes are cut
    off; ``analyze_logs`` covers the curves by a legend of whole paths.
    """
    from matplotlib import pyplot
    pyplot.rcParams['savefig.bbox'] = 'tight'  # labels outside of the axes belong to the picture
    subplots, legend = pyplot.subplots, pyplot.legend

    def roomy_subplots(*args, figsize=None, **options):
        if figsize is not None:
            figsize = tuple(max(side, least) for side, least in zip(figsize, _LEAST_INCHES))
        return subplots(*args, figsize=figsize, **options)

    def legend_above(*args, **options):
        return legend(*args, **{**_ABOVE, **options})

    pyplot.subplots, pyplot.legend = roomy_subplots, legend_above
    # Percentages of classes without a single object; their row stays empty.
    warnings.filterwarnings('ignore', message='invalid value encountered in divide')


def read_files_safely() -> None:
    """Let ``torch.load`` be :func:`load_file`, before PyTorch 2.6, for the rest of the process.

    It either runs code that a file contains there, or refuses what MMEngine writes beside the
    weights. ``publish_model`` writes the format of before 2020, which this package refuses there;
    ``torch.save`` writes that of today instead.
    """
    load, save = torch.load, torch.save

    def load_safely(file, *args, **options):
        if 'pickle_module' in options:  # load_file itself
            return load(file, *args, **options)
        with as_user_error():
            return load_file(file)

    def save_as_archive(*args, _use_new_zipfile_serialization=True, **options):
        save(*args, **options)

    torch.load, torch.save = load_safely, save_as_archive


def run_mmdet_tool(name: str, arguments: list[str]) -> None:
    """Run a tool of MMDetection in this process, where ``mmcontainer::`` configs are known.

    Args:
        name (str): Name of the tool, with or without folder and ``.py``.
        arguments (list[str]): Its command line.

    Raises:
        UserError: No such tool.
    """
    tools = find_tools()
    stem = Path(name).stem
    if stem not in tools:
        close = get_close_matches(stem, tools, n=3) or sorted(tools)
        raise UserError(f'MMDetection has no tool {name!r}. It has {", ".join(close)}.')
    make_figures_readable()
    if not HAS_SAFE_LOAD and tools[stem].parent.name == 'model_converters':
        read_files_safely()
    sys.argv = [str(tools[stem]), *arguments]
    runpy.run_path(str(tools[stem]), run_name='__main__')
