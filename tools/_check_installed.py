"""Imported first by every tool: says what to do where mmcontainer is not installed."""
import os
import sys
from importlib.util import find_spec

if find_spec('mmcontainer') is None:
    sys.exit(f'mmcontainer is not installed in {sys.executable}: run `make env` in its checkout '
             'and use .venv/bin/python, or `pip install` it.')


def _show(kind, error, trace):
    """Ctrl-C while the libraries are imported, which takes seconds, is no defect to be traced."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print('\nInterrupted.', file=sys.stderr, flush=True)
    os._exit(130)


sys.excepthook = _show
