"""Examine the environment, and say how to mend it.

Run it as a file, ``python .../mmcontainer/doctor.py`` (`make doctor`): then it needs nothing but
the standard library, and works where mmcontainer, torch or mmcv cannot be imported. Where they
can, ``python -m mmcontainer.doctor`` is the same. Every package is tried out in a process of its
own, so that one that crashes does not take the doctor along.
"""
import argparse
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from pathlib import Path
from typing import NamedTuple

if __package__:
    from . import compat
else:  # run as a file: its folder is the first place where Python looks for modules
    import compat

TESTED_TORCHVISION = {(2, 12, 1): '0.27.1'}
OTHER_PACKAGES = ('torchvision', 'numpy', 'setuptools', 'pycocotools')

# {name: code}, causes before their consequences. What the code prints is kept.
PROBES = {
    'torch': '''
import torch
print(', '.join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))''',
    'torchvision': 'import torchvision',
    'cv2': 'import cv2',
    'pycocotools': 'import pycocotools.mask',
    'mmengine': 'import mmengine.runner',
    'mmcv': 'import mmcv.cnn',
    # Prints the CUDA that the operators were compiled with, or 'not available'.
    'mmcv._ext': '''
import torch
from mmcv import _ext, ops
ops.nms(torch.tensor([[0., 0., 9., 9.]]), torch.tensor([.9]), .5)
print(_ext.get_compiling_cuda_version())''',
    'mmdet': 'import mmdet, mmdet.models',
    'mmpretrain': 'import mmpretrain',
    'mmcontainer': 'import mmcontainer, mmengine; mmengine.MODELS.get("ContainerLight").__name__',
    # What MMEngine writes into every checkpoint, through torch and back (hard from torch 2.6 on).
    'resume': '''
import mmcontainer, os, tempfile, torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import _load_checkpoint
from mmcontainer.checkpoints.files import let_mmengine_read_safely
let_mmengine_read_safely()  # as the tools do
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'x.pth')
    torch.save({'message_hub': {'log_scalars': {'loss': HistoryBuffer([1.], [1])}}}, path)
    _load_checkpoint(path, map_location='cpu')''',
}
# Runs one of them; the last line of stderr is the error, shortened to the line that tells.
RUN_PROBE = '''
import sys
try:
    exec(sys.argv[1], {'__name__': 'probe'})
except BaseException as error:
    text = str(error).strip().splitlines() or ['']
    sys.exit(f'{type(error).__name__}: {text[0]}')
'''


class Finding(NamedTuple):
    """One thing to tell: ``broken`` ones make the doctor exit with 1, the others are notes."""
    broken: bool
    what: str
    command: str


def try_out(code):
    """Run a probe in a process of its own; return ``(what it prints, error or None)``."""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', RUN_PROBE, code], text=True,
                          capture_output=True)
    if done.returncode == 0:
        return done.stdout.strip().rpartition('\n')[2], None
    if done.returncode < 0:
        return '', f'the process died of signal {-done.returncode}'
    last = done.stderr.strip().rpartition('\n')[2]
    return '', last or f'the process ended with code {done.returncode}'


def collect():
    """Gather the facts.

    Returns:
        dict: ``versions`` {module: version or None}, ``owners`` {module: [distributions]},
        ``errors`` {probe: text}, ``printed`` {probe: text}, ``ext`` (path of mmcv's compiled
        operators or None), ``stack``, ``pkg_resources`` (there or not), ``checkout`` (True in the
        environment that `make env` makes).
    """
    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(PROBES, pool.map(try_out, PROBES.values())))
    mmcv = util.find_spec('mmcv')
    ext = sorted(Path(mmcv.origin).parent.glob('_ext.*')) if mmcv and mmcv.origin else []
    return {
        'versions': {**{module: compat.installed_version(module) for module in compat.SUPPORTED},
                     **{name: compat.distribution_version(name) for name in OTHER_PACKAGES}},
        'owners': {module: compat.owners(module) for module in compat.SUPPORTED},
        'errors': {name: error for name, (_, error) in results.items() if error},
        'printed': {name: text for name, (text, _) in results.items()},
        'ext': str(ext[0]) if ext else None,
        'stack': compat.current_stack(),
        'pkg_resources': util.find_spec('pkg_resources') is not None,
        'checkout': Path(sys.prefix) == Path(__file__).resolve().parents[1] / '.venv',
    }


# ---------------------------------------------------------------- from facts to findings

def diagnose(facts):
    """Return the list of findings for the facts of :func:`collect`, causes first."""
    findings = [finding for rule in (mixed_stacks, versions, torchvision, pkg_resources, numpy_2,
                                     system_libraries, compiled_operators, mmdet_refuses, resume)
                for finding in rule(facts)]
    if not any(finding.broken for finding in findings):  # else they may be consequences
        findings.extend(failing_imports(facts))
    return sorted(findings, key=lambda finding: not finding.broken)


def pip_install(*requirements, options=''):
    """Return the pip command for this Python."""
    wanted = ' '.join(f'"{requirement}"' for requirement in requirements)
    return f'{compat.python_command()} -m pip install {options + " " if options else ""}{wanted}'


def mend(facts, module):
    """Return the command that installs a module of OpenMMLab in the version that is tested."""
    if facts['checkout']:
        return 'make clean env'
    return compat.install_command(module, facts['stack'])


def backbones_only(facts):
    """Whether nothing is installed that needs torchvision, NumPy 1 or compiled operators."""
    versions = facts['versions']
    return versions['mmdet'] is None and versions['mmpretrain'] is None


def mixed_stacks(facts):
    """Two distributions that own the same module have overwritten each other's files."""
    twice = {module: names for module, names in facts['owners'].items() if len(names) > 1}
    if not twice:
        return
    python = compat.python_command()
    commands = [f'{python} -m pip uninstall -y {" ".join(sum(twice.values(), []))}']
    commands += [compat.install_command(module, 'onedl') for module in twice]
    what = '; '.join(f'{" and ".join(names)} both provide {m}' for m, names in twice.items())
    yield Finding(True, f'Both stacks are installed over each other: {what}. Remove both, install '
                        'one again (here: the default one)', ' && '.join(commands))


def versions(facts):
    """Missing packages, and versions out of the supported range."""
    for module, supported in compat.SUPPORTED.items():
        version = facts['versions'][module]
        if version is None:
            effect = ('mmcontainer needs it' if supported.mandatory else
                      'the backbones work without it, the detectors and their configs do not'
                      if module == 'mmdet' else 'only needed for work with MMPretrain')
            yield Finding(supported.mandatory, f'{module} is not installed ({effect})',
                          compat.install_command(module, facts['stack']))
        elif not supported.accepts(version):
            yield Finding(True, f'{module} {version} is installed, mmcontainer works with '
                                f'{supported.range}', mend(facts, module))


def torchvision(facts):
    """It is compiled against one torch; mmdet and mmpretrain fail with it."""
    torch, error = facts['versions']['torch'], facts['errors'].get('torchvision')
    if torch is None or 'torch' in facts['errors'] or not error or backbones_only(facts):
        return
    version, _, local = torch.partition('+')
    partner = TESTED_TORCHVISION.get(compat.release(torch))
    if partner is None:  # which torchvision belongs to another torch only pip knows
        command = pip_install(f'torch=={version}', 'torchvision', options='--upgrade')
    else:
        index = ' --index-url https://download.pytorch.org/whl/cpu' if local == 'cpu' else ''
        command = pip_install(f'torchvision=={partner}',
                              options='--force-reinstall --no-deps' + index)
    yield Finding(True, f'torchvision does not work with the installed torch {torch} ({error})',
                  command)


def pkg_resources(facts):
    """Setuptools 82 removed pkg_resources, which upstream MMEngine and mmcv import."""
    if not facts['pkg_resources'] and (
            facts['stack'] == 'upstream' or 'pkg_resources' in str(facts['errors'])):
        yield Finding(True, f'setuptools {facts["versions"]["setuptools"] or "(missing)"} has no '
                            'pkg_resources, which the upstream packages import',
                      pip_install('setuptools<81'))


def numpy_2(facts):
    """The upstream packages were written for NumPy 1."""
    numpy = facts['versions']['numpy']
    if (facts['stack'] == 'upstream' and numpy and compat.release(numpy) >= (2, 0, 0)
            and not backbones_only(facts)):
        yield Finding(True, f'NumPy {numpy} is installed, the upstream packages need NumPy 1',
                      pip_install('numpy==1.26.4', 'opencv-python==4.11.0.86'))


def system_libraries(facts):
    """OpenCV's wheels expect the desktop's OpenGL and GLib."""
    missing = re.search(r'lib(GL|gthread|glib)[\w.-]*(?=: cannot open)',
                        facts['errors'].get('cv2', ''))
    if missing:
        yield Finding(True, f'OpenCV does not find the system library {missing.group()}',
                      'sudo apt-get install libgl1 libglib2.0-0')


def compiled_operators(facts):
    """Operators of mmcv that are missing, are for another torch, or do not use the GPU."""
    error = facts['errors'].get('mmcv._ext')
    if facts['versions']['mmcv'] is None or {'torch', 'cv2', 'mmcv'} & facts['errors'].keys():
        return
    if facts['ext'] is None:
        yield Finding(not backbones_only(facts),
                      'mmcv is installed without its compiled operators (mmcv._ext): NMS, '
                      'RoIAlign and with them the detectors do not work', mend(facts, 'mmcv'))
    elif error:
        yield Finding(True, "mmcv's compiled operators do not work with the installed torch "
                            f'{facts["versions"]["torch"]}, they were probably compiled for '
                            f'another one ({error})', mend(facts, 'mmcv'))
    elif facts['printed']['torch'] and facts['printed']['mmcv._ext'] == 'not available':
        yield Finding(False, "mmcv's operators are compiled for the CPU only: detectors cannot use "
                             f'the GPU ({facts["printed"]["torch"]}). Compiling them for it needs '
                             'the CUDA toolkit (nvcc) of the CUDA that torch is for',
                      mend(facts, 'mmcv'))


def mmdet_refuses(facts):
    """MMDetection and MMPretrain state ranges of mmcv and mmengine, and refuse all others."""
    for name in ('mmdet', 'mmpretrain'):
        error = facts['errors'].get(name, '')
        if 'is used but incompatible' not in error:
            continue
        command = mend(facts, 'mmcv')
        if facts['stack'] == 'onedl' and not facts['checkout']:  # upstream's, beside our default
            command = (f'{compat.python_command()} -m pip uninstall -y '
                       f'{" ".join(facts["owners"][name] or [name])} && '
                       f'{compat.install_command(name, "onedl")}')
        yield Finding(True, f'{name} refuses the installed mmcv or mmengine ({error})', command)


def resume(facts):
    """From torch 2.6 on, MMEngine's checkpoints need its classes on torch's list of safe ones."""
    error = facts['errors'].get('resume')
    if error and 'mmcontainer' not in facts['errors']:
        yield Finding(True, 'Training cannot be resumed: torch refuses what MMEngine writes into '
                            f'its checkpoints ({error})', mend(facts, 'mmengine'))


def failing_imports(facts):
    """Packages of a right version that still cannot be imported."""
    for name, error in facts['errors'].items():
        is_missing = facts['versions'].get(name, name) is None
        if is_missing and (name in compat.SUPPORTED or backbones_only(facts)):
            continue  # mmdet and mmpretrain may be missing, and then what only they need
        if name == 'mmcv._ext' and facts['ext'] is None:
            continue  # was said
        yield Finding(True, f'{name} cannot be imported ({error})', pip_install(
            name, options='--force-reinstall --no-deps') if name == 'pycocotools' else
                      f'{compat.python_command()} -m pip check')


def overview(facts):
    """Yield the lines that describe the environment, whether or not something is wrong."""
    yield f'{"python":<13} {platform.python_version()}  {sys.executable}'
    for name, version in facts['versions'].items():
        others = [owner for owner in facts['owners'].get(name, []) if owner != name]
        yield f'{name:<13} {version or "-"}' + (f'  ({", ".join(others)})' if others else '')
    cuda = facts['printed']['mmcv._ext']
    yield f'{"mmcv._ext":<13} ' + (
        'missing' if facts['ext'] is None else facts['errors'].get('mmcv._ext') or
        ('works, on the CPU only' if cuda == 'not available' else f'works, CUDA {cuda}'))
    yield f'{"GPU":<13} {facts["printed"]["torch"] or "none"}'


def main():
    """Print the overview and the findings; return 1 if something is broken."""
    print('Trying out what is installed (half a minute) ...', flush=True)
    facts = collect()
    print('\n'.join(overview(facts)))
    findings = diagnose(facts)
    for finding in findings:
        print(f'\n{"BROKEN" if finding.broken else "note"}: {finding.what}\n    '
              f'{finding.command}')
    broken = sum(finding.broken for finding in findings)
    print(f'\n{broken} thing(s) to mend, in the order above; then run this again.' if broken
          else '\nNothing is broken.')
    return 1 if broken else 0


if __name__ == '__main__':
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='The exit code is 1 if something is broken.').parse_args()
    sys.exit(main())
