"""Running the tools that MMDetection installs, by name."""
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from .errors import UserError


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


def _name_curves(arguments: Sequence[str]) -> list[str]:
    """``--legend`` for plot_curve: its own are whole paths, which hide the curves."""
    if arguments[:1] != ['plot_curve'] or '--legend' in arguments or '--keys' not in arguments:
        return []
    logs = [word for word in arguments if word.endswith('.json')]
    after = list(arguments[arguments.index('--keys') + 1:])
    keys = after[:next((i for i, word in enumerate(after) if word.startswith('--')), len(after))]
    keys = [key for key in keys if key not in logs]
    return ['--legend', *(f'{Path(log).stem} {key}' if len(logs) > 1 else key
                          for log in logs for key in keys)]


def _prepare_matrix(arguments: Sequence[str]) -> list[str]:
    """A picture of a size that few classes can be read in, and colours that white reads on."""
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.colors import LinearSegmentedColormap
    subplots = pyplot.subplots

    def large_enough(*args, figsize=_SMALLEST_MATRIX, **kwargs):
        return subplots(*args, figsize=tuple(map(max, figsize, _SMALLEST_MATRIX)), **kwargs)

    pyplot.subplots = large_enough
    if '--color-theme' in arguments:
        return []
    matplotlib.colormaps.register(
        LinearSegmentedColormap.from_list(_DARK, ['#1b2a49', '#5b5b8c', '#c2410c']), force=True)
    return ['--color-theme', _DARK]


# What MMDetection's tools lack by default: {name: additional arguments for given ones}.
_ADDITIONS = {'analyze_logs': _name_curves, 'confusion_matrix': _prepare_matrix}
_SMALLEST_MATRIX = (6., 5.)  # inches
_DARK = 'mmcontainer_dark'


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
    additions = _ADDITIONS[stem](arguments) if stem in _ADDITIONS else []
    sys.argv = [str(tools[stem]), *arguments, *additions]
    runpy.run_path(str(tools[stem]), run_name='__main__')
