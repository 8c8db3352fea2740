"""Running the tools that MMDetection installs, by name."""
import importlib.util
import runpy
import sys
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
    sys.argv = [str(tools[stem]), *arguments]
    runpy.run_path(str(tools[stem]), run_name='__main__')
