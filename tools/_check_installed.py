"""Imported first by every tool: says what to do where mmcontainer is not installed."""
import sys
from importlib.util import find_spec

if find_spec('mmcontainer') is None:
    sys.exit(f'mmcontainer is not installed in {sys.executable}: run `make env` in its checkout '
             'and use .venv/bin/python, or `pip install` it.')
