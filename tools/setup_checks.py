"""What setup_env.py asks of the machine: Python, compiler, disk, cores and memory.

Standard library only: this runs before anything is installed.
"""
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setup_runner import SetupError

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 12)
NEEDED_GB = 8


def check_python(version=None):
    """Check that this Python can hold the stack and make virtual environments."""
    version = tuple(version or sys.version_info[:2])
    if not OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        raise SetupError(
            f'{sys.executable} is Python {version[0]}.{version[1]}, but the pinned packages exist '
            'for 3.10 to 3.12 (tested: 3.11). Name another: `make env PYTHON=python3.11`.')
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        name = f'python{version[0]}.{version[1]}'
        raise SetupError(f'{sys.executable} cannot make virtual environments ({error}): '
                         f'`sudo apt-get install {name}-venv {name}-dev`, then run this '
                         'again.') from None


def check_compiler(find=shutil.which, include=None):
    """Check for the C++ compiler and the headers that mmcv needs, before minutes are spent."""
    compiler = os.environ.get('CXX', 'g++').split()[0]
    if not (find(compiler) or find('c++')):
        raise SetupError(f'There is no C++ compiler ({compiler}), mmcv cannot be compiled: '
                         '`sudo apt-get install g++`, then run this again.')
    header = Path(include or sysconfig.get_path('include')) / 'Python.h'
    if not header.is_file():
        raise SetupError(f'{header} is missing, mmcv cannot be compiled: `sudo apt-get install '
                         f'python{sys.version_info[0]}.{sys.version_info[1]}-dev`, then run this '
                         'again.')


def check_disk(folder, usage=shutil.disk_usage):
    """Check that the environment fits on the disk."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = usage(existing).free / 2 ** 30
    if free < NEEDED_GB:
        raise SetupError(f'{existing} has {free:.1f} GB free, the environment needs {NEEDED_GB}: '
                         'free some space, or put it elsewhere with VENV=/path/on/another/disk.')


def max_jobs(environ, cores, memory_gb):
    """Return how many compilers may run at once: one per core, and 2 GB of memory for each."""
    if environ.get('MAX_JOBS'):
        return int(environ['MAX_JOBS'])
    return max(1, min(cores, int(memory_gb // 2)))


def machine_size():
    """Return (cores this process may use, memory in GB)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return cores, os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2 ** 30


def nvcc_version(environ):
    """Return the release of the CUDA compiler that torch would use, for example '13.0', or None."""
    home = environ.get('CUDA_HOME') or environ.get('CUDA_PATH')
    nvcc = str(Path(home) / 'bin' / 'nvcc') if home else shutil.which('nvcc')
    try:
        text = subprocess.run([nvcc, '--version'], stdout=subprocess.PIPE, text=True).stdout
    except (OSError, TypeError):
        return None
    found = re.search(r'release (\d+\.\d+)', text)
    return found.group(1) if found else None
