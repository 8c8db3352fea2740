"""``python -m mmcontainer.doctor``: examine the environment, and say how to mend it.

Imports nothing but the standard library: every package is tried out in a process of its own, so
that one that crashes cannot take the doctor along, and the doctor runs where mmcontainer itself
refuses to be imported.
"""
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from .compat import SUPPORTED, current_stack, installed_distributions, installed_version
from .diagnosis import diagnose

COCO_TREE = ('annotations/instances_train2017.json', 'annotations/instances_val2017.json',
             'train2017', 'val2017')
OTHER_PACKAGES = ('torchvision', 'pycocotools', 'einops', 'numpy', 'setuptools')
# Written into the environment by tools/setup_env.py: what mmcv was compiled for, what is installed.
BUILD_RECORD, STAMP = 'mmcontainer-mmcv-build.json', 'mmcontainer-env.json'

# {name: code}; causes first. The code may print one JSON value, kept as 'detail'.
PROBES = {
    'torch': '''
import torch
print(json.dumps({'cuda': torch.version.cuda, 'names': [
    torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]}))''',
    'torchvision': 'import torchvision',
    'cv2': 'import cv2',
    'pycocotools': 'import pycocotools.mask',
    'einops': 'import einops',
    'mmengine': 'import mmengine.runner',
    'mmcv': 'import mmcv.cnn',
    'mmcv._ext': '''
import torch
from mmcv import _ext
print(json.dumps({'compiler': _ext.get_compiler_version(),
                  'cuda': _ext.get_compiling_cuda_version()}))''',
    'mmdet': 'import mmdet, mmdet.models',
    'mmpretrain': 'import mmpretrain',
    'mmcontainer': 'import mmcontainer, mmengine; mmengine.MODELS.get("ContainerLight").__name__',
    # What MMEngine writes into every checkpoint, through torch and back (hard from torch 2.6 on).
    'resume': '''
import mmcontainer, os, tempfile, torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import _load_checkpoint
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'x.pth')
    torch.save({'message_hub': {'log_scalars': {'loss': HistoryBuffer([1.], [1])}}}, path)
    _load_checkpoint(path, map_location='cpu')''',
}
# Runs the probes named in argv, one line of JSON each.
PROBE_LOOP = '''
import contextlib, io, json, sys, warnings
warnings.filterwarnings('ignore')
for name, code in json.loads(sys.argv[1]).items():
    result, output = {'name': name, 'error': None}, io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            exec(code, {'__name__': 'probe', 'json': json})
        printed = output.getvalue().strip()
        result['detail'] = json.loads(printed.splitlines()[-1]) if printed.startswith('{') else {}
    except BaseException as error:
        lines = str(error).strip().splitlines() or ['']
        result['error'] = type(error).__name__ + ': ' + lines[0]
    print('PROBE ' + json.dumps(result), flush=True)
'''


def try_imports(probes=None):
    """Run the probes in another process; after one that kills it the rest go on in a new one.

    Args:
        probes (dict): {name: code}, by default all of ``PROBES``.

    Returns:
        dict: {name: {'error': text or None, 'detail': what the code printed}}.
    """
    left, results = dict(PROBES if probes is None else probes), {}
    while left:
        done = subprocess.run([sys.executable, '-c', PROBE_LOOP, json.dumps(left)], text=True,
                              capture_output=True)
        for line in re.findall(r'^PROBE (.*)$', done.stdout, re.MULTILINE):
            result = json.loads(line)
            name = result.pop('name')
            results[name] = result
            left.pop(name)
        if left:  # the first one that did not answer ended the process
            name = next(iter(left))
            left.pop(name)
            results[name] = {'error': f'the process died with code {done.returncode}'}
    return results


def is_found(name):
    """True if a module can be found; the probes that are no modules count as found."""
    if name == 'resume':
        return True
    try:
        return importlib.util.find_spec(name.partition('.')[0]) is not None
    except (ImportError, ValueError):
        return False


def extension_file():
    """Return the path of mmcv's compiled operators, None if there are none."""
    spec = importlib.util.find_spec('mmcv')
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob('_ext.*'))), None)


def built_for(extension, prefix=None):
    """Return the torch version mmcv's operators were compiled for, None where nothing tells.

    The file itself does not say. ``make env`` records it with the file's checksum; a file that was
    installed by other means since then has another one.
    """
    try:
        record = json.loads((Path(prefix or sys.prefix) / BUILD_RECORD).read_text('utf-8'))
        digest = hashlib.sha256(Path(extension).read_bytes()).hexdigest()
    except (OSError, ValueError, TypeError):
        return None
    return record.get('torch') if record.get('ext_sha256') == digest else None


def setup_command(prefix=None):
    """Return the command that mends an environment made by ``make env``; None for any other."""
    prefix = Path(prefix or sys.prefix)
    script = Path(__file__).resolve().parent.parent / 'tools' / 'setup_env.py'
    try:
        stack = json.loads((prefix / STAMP).read_text('utf-8'))['stack']
    except (OSError, ValueError, KeyError):
        return None
    if not script.is_file():
        return None
    if stack == 'onedl' and prefix == script.parent.parent / '.venv':
        return 'make env'
    return f'python3 {os.path.relpath(script)} --stack {stack} --venv {os.path.relpath(prefix)}'


def nvcc_release():
    """Return the release of the CUDA compiler on PATH, for example '13.0', or None."""
    if not shutil.which('nvcc'):
        return None
    text = subprocess.run(['nvcc', '--version'], stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r'release (\d+\.\d+)', text)
    return found.group(1) if found else None


def distribution_version(name):
    """Return the version pip has on record for a distribution, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def collect(folder='.'):
    """Gather the facts.

    Args:
        folder (str): Where ``data/`` and ``checkpoints/`` are looked for.

    Returns:
        dict: ``versions`` {module: version or None}, ``distributions`` {module: [owners]},
        ``imports`` {module: {found, error, detail}}, ``ext`` (file, torch, compiler, cuda),
        ``gpu`` (names, cuda, nvcc, driver), ``stack``, ``pkg_resources``, ``setup_command``,
        ``data`` {path: there or not}, ``checkpoints`` [file names].
    """
    folder, imports = Path(folder), try_imports()
    for name, entry in imports.items():
        entry['found'] = is_found(name)
    versions = {row.module: installed_version(row) for row in SUPPORTED}
    versions.update({name: distribution_version(name) for name in OTHER_PACKAGES})
    extension, compiled = extension_file(), imports['mmcv._ext'].get('detail') or {}
    return {
        'versions': versions,
        'distributions': {row.module: list(installed_distributions(row)) for row in SUPPORTED},
        'imports': imports,
        'ext': {**compiled, 'file': extension and str(extension), 'torch': built_for(extension)},
        'gpu': {**(imports['torch'].get('detail') or {}), 'nvcc': nvcc_release(),
                'driver': shutil.which('nvidia-smi') is not None},
        'stack': current_stack(),
        'pkg_resources': is_found('pkg_resources'),
        'setup_command': setup_command(),
        'data': {name: (folder / 'data' / 'coco' / name).exists() for name in COCO_TREE},
        'checkpoints': sorted(p.name for p in folder.glob('checkpoints/*.pth')),
    }


def overview(facts):
    """Yield the lines that describe the environment, whether or not something is wrong."""
    yield f'{"python":<13} {platform.python_version()}  {sys.executable}'
    for name, version in facts['versions'].items():
        owners = facts['distributions'].get(name) or []
        others = [owner for owner in owners if owner != name]
        yield f'{name:<13} {version or "-"}' + (f'  ({", ".join(others)})' if others else '')
    ext, error = facts['ext'], facts['imports']['mmcv._ext']['error']
    if ext['file'] is None:
        state = 'missing'
    else:
        built = ext['torch'] or 'an unrecorded version (not compiled by `make env`)'
        state = f'compiled for torch {built}, ' + (f'does not load: {error}' if error else
                f'loads; {ext["compiler"]}, CUDA {ext["cuda"]}')
    yield f'{"mmcv._ext":<13} {state}'
    gpu = facts['gpu']
    yield (f'{"GPU":<13} {", ".join(gpu.get("names") or []) or "none"}; torch is for CUDA '
           f'{gpu.get("cuda") or "-"}, nvcc {gpu["nvcc"] or "-"}')
    there = [name for name, found in facts['data'].items() if found]
    yield f'{"data/coco":<13} {", ".join(there) or "nothing there"}'
    yield f'{"checkpoints":<13} {", ".join(facts["checkpoints"]) or "nothing there"}'


def main():
    """Print the overview and the findings; return 1 if something is broken."""
    print('Trying out what is installed (half a minute) ...', flush=True)
    facts = collect()
    print('\n'.join(overview(facts)))
    findings = diagnose(facts)
    for finding in sorted(findings, key=lambda finding: not finding.broken):
        print(f'\n{"BROKEN" if finding.broken else "note"}: {finding.what}\n    '
              f'{finding.command}')
    broken = sum(finding.broken for finding in findings)
    print(f'\n{broken} thing(s) to mend, in the order above.' if broken
          else '\nNothing is broken.')
    return 1 if broken else 0


if __name__ == '__main__':
    sys.exit(main())
