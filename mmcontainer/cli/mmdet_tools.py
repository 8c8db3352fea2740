"""Running the tools that MMDetection installs, by name."""
import importlib.util
import runpy
import sys
import warnings
from difflib import get_close_matches
from pathlib import Path

from ..errors import UserError

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
    sys.argv = [str(tools[stem]), *arguments]
    runpy.run_path(str(tools[stem]), run_name='__main__')
