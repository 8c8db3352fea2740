"""Create a virtual environment with one of the two pinned stacks and install this project into it.

    python3 tools/setup_env.py [--stack {onedl,upstream}] [--venv DIR]

Runs under the system's Python with nothing but the standard library. The order matters: torch
first, then mmcv compiled against that very torch, then the rest. Running it again does nothing if
all is in place, and recovers from an interruption at any point.
"""
import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from setup_checks import (
    check_compiler,
    check_disk,
    check_python,
    machine_size,
    max_jobs,
    nvcc_version,
)
from setup_runner import (
    Runner,
    SetupError,
    StepFailed,
    duration,
    explain,
    read_json,
    say,
    write_json,
)

ROOT = Path(__file__).resolve().parent.parent
STAMP = 'mmcontainer-env.json'         # written last: the environment is complete
DIRTY = 'mmcontainer-env.installing'   # exists while pip writes into the environment
BUILD_RECORD = 'mmcontainer-mmcv-build.json'  # read by `python -m mmcontainer.doctor`
OPENMMLAB_FILE = {'onedl': 'openmmlab-onedl.txt', 'upstream': 'openmmlab-upstream.txt'}

# Facts about the torch of an environment and the compiler that would extend it, as JSON.
TORCH_PROBE = '''
import json, os, sys, torch, torchvision
gpu = torch.version.cuda is not None and (
    torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1')
archs = sorted({'%d%d' % torch.cuda.get_device_capability(i)
                for i in range(torch.cuda.device_count())}) if gpu else []
print(json.dumps(dict(torch=torch.__version__, cuda=torch.version.cuda, gpu=gpu, archs=archs,
                      python='cp%d%d' % sys.version_info[:2])))
'''
# `base` must work before the compiled operators are judged: without it they cannot be blamed.
BASE_PROBE = 'import torch, torchvision, mmengine, mmcv'
OPS_PROBE = '''
import torch, mmcv.ops
from mmcv import _ext
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.]])
assert len(mmcv.ops.nms(boxes, torch.tensor([.9, .8]), .5)[1]) == 1
print(torch.__version__, _ext.__file__)
'''


# ---------------------------------------------------------------- what is to be installed

def requirement_files(stack):
    """Return the requirement files of a stack, in the order of installation."""
    names = ('torch.txt', OPENMMLAB_FILE[stack], 'runtime.txt', 'dev.txt')
    return [ROOT / 'requirements' / name for name in names]


def mmcv_requirement(stack):
    """Return ('onedl-mmcv', '2.3.6'): the mmcv that the requirements of the stack pin."""
    path = ROOT / 'requirements' / OPENMMLAB_FILE[stack]
    pin = re.search(r'^((?:onedl-)?mmcv)==(\S+)', path.read_text(encoding='utf-8'), re.MULTILINE)
    if pin is None:
        raise SetupError(f'{path} pins no mmcv: expected a line such as mmcv==2.1.0')
    return pin.groups()


def requirements_digest(stack):
    """Return one checksum of everything that says what is to be installed."""
    digest = hashlib.sha256()
    for path in [*requirement_files(stack), ROOT / 'setup.py', ROOT / 'pyproject.toml',
                 ROOT / 'mmcontainer' / 'version.py']:
        digest.update(path.name.encode() + b'\0' + path.read_bytes() + b'\0')
    return digest.hexdigest()


def stamp_for(stack, python_tag, requirements, root=ROOT):
    """Return what the stamp of a complete environment holds; any difference means: install again.

    The project's path is in it because an editable install points there.
    """
    return {'format': 1, 'stack': stack, 'python': python_tag, 'project': str(root),
            'requirements': requirements}


def accelerator(probe, nvcc_release, environ):
    """Return what mmcv's operators are to be compiled for: 'cpu', or such as 'cu130-sm90'.

    CUDA needs a GPU to compile for (or FORCE_CUDA=1) and an nvcc of torch's own major release.
    TORCH_CUDA_ARCH_LIST, which torch's build obeys, takes the place of the GPUs found.
    """
    if not probe['gpu'] or nvcc_release is None:
        return 'cpu'
    if nvcc_release.split('.')[0] != probe['cuda'].split('.')[0]:
        return 'cpu'
    archs = environ.get('TORCH_CUDA_ARCH_LIST')
    archs = re.findall(r'[\w.+]+', archs) if archs else [f'sm{arch}' for arch in probe['archs']]
    return '-'.join(['cu' + probe['cuda'].replace('.', ''), *archs])


def wheel_key(name, version, probe, target, machine=None):
    """Return the folder of the cache for a wheel: everything its compiled part depends on."""
    return '-'.join([name, version, 'torch' + probe['torch'], probe['python'], target,
                     (machine or platform.machine())])


def cache_folder(environ):
    """Return the folder of the wheel cache: MMCONTAINER_CACHE, or the user's cache folder."""
    if environ.get('MMCONTAINER_CACHE'):
        return Path(environ['MMCONTAINER_CACHE']).expanduser() / 'wheels'
    base = environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / 'mmcontainer' / 'wheels'


# ---------------------------------------------------------------- the steps

class Environment:
    """One virtual environment, the stack that goes into it, and where mmcv's wheel is kept."""

    def __init__(self, stack, folder, cache, runner=None):
        self.stack, self.folder, self.cache = stack, Path(folder).absolute(), Path(cache)
        self.python = self.folder / 'bin' / 'python'
        self.log = self.folder / 'mmcontainer-setup.log'
        self.runner = runner or Runner(self.log)
        # Read once: a file edited during the installation makes the next run install again.
        self.requirements = requirements_digest(stack)

    def python_tag(self):
        """Return 'cp311' if the environment has a Python with pip that runs, else None."""
        try:
            code = 'import pip, sys; print("cp%d%d" % sys.version_info[:2])'
            return self.runner.capture([self.python, '-c', code]).strip()
        except (OSError, StepFailed):
            return None

    def is_complete(self):
        """True if the stamp matches what is to be installed and the compiled operators work."""
        stamp = read_json(self.folder / STAMP)
        if stamp is None or (self.folder / DIRTY).exists():
            return False
        if stamp != stamp_for(self.stack, self.python_tag(), self.requirements):
            say('    the requirements or the Python have changed since: installing again')
            return False
        record = read_json(self.folder / BUILD_RECORD) or {}
        try:
            probed = self.runner.capture([self.python, '-c', OPS_PROBE])
        except StepFailed as failed:
            say(f'    mmcv.ops does not work any more ({last_line(failed.output)}): mending it')
            return False
        return probed.split()[-2] == record.get('torch')

    def create(self):
        """Make the virtual environment, or make it anew where an earlier run left it broken."""
        interrupted = (self.folder / DIRTY).exists()
        tag = None if interrupted else self.python_tag()
        if tag is not None:
            running = f'cp{sys.version_info[0]}{sys.version_info[1]}'
            if tag != running:
                say(f'    {self.folder.name} has Python {tag[2]}.{tag[3:]} and keeps it '
                    f'(`make clean` first, to change to {running[2]}.{running[3:]})')
            return
        known = {'bin', 'include', 'lib', 'lib64', 'share', 'pyvenv.cfg', '.gitignore'}
        if self.folder.exists():
            foreign = [p.name for p in self.folder.iterdir()
                       if p.name not in known and not p.name.startswith('mmcontainer-')]
            if foreign:
                raise SetupError(f'{self.folder} exists and is no virtual environment (it holds '
                                 f'{foreign[0]}): move it away, or use another with VENV=...')
            say('    an earlier run was interrupted: making the environment anew')
        check_python()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.runner.capture([sys.executable, '-m', 'venv', self.folder])

    def pip(self, *arguments, **extra_env):
        """Run pip; a marker stands while it writes, so that an interruption is noticed later."""
        marker = self.folder / DIRTY

        def mark(line):
            if line.startswith('Installing collected packages'):
                marker.touch()

        # ninja is found through PATH; without it torch compiles one file at a time.
        path = f'{self.folder / "bin"}{os.pathsep}{os.environ.get("PATH", "")}'
        env = {**os.environ, 'PATH': path, 'PIP_DISABLE_PIP_VERSION_CHECK': '1', **extra_env}
        try:
            self.runner.stream([self.python, '-m', 'pip', *arguments], env=env, on_line=mark)
        except StepFailed:  # pip has ended by itself and undone what it began
            marker.unlink(missing_ok=True)
            raise
        marker.unlink(missing_ok=True)

    def install(self, *files):
        """Install requirement files; the stack's pins (NumPy!) hold in every one of the steps."""
        arguments = [part for path in files for part in ('-r', path)]
        self.pip('install', *arguments, '-c', ROOT / 'requirements' / OPENMMLAB_FILE[self.stack])

    def probe(self):
        """Return the facts about the installed torch (see TORCH_PROBE)."""
        return json.loads(self.runner.capture([self.python, '-c', TORCH_PROBE]).splitlines()[-1])

    def install_mmcv(self):
        """Install mmcv from the cache, compiling it first if this very build is not there."""
        probe, nvcc = self.probe(), nvcc_version(os.environ)
        target = accelerator(probe, nvcc, os.environ)
        name, version = mmcv_requirement(self.stack)
        folder = self.cache / wheel_key(name, version, probe, target)
        if probe['gpu'] and target == 'cpu':
            say(f'    there is a GPU, but no CUDA {probe["cuda"]} compiler (nvcc: '
                f'{nvcc or "none"}): mmcv\'s operators will run on the CPU only. For the GPU '
                'install the CUDA toolkit and run `make clean env`.')
        wheel = cached_wheel(folder)
        if wheel is None:
            wheel = self.build_mmcv(folder, f'{name}=={version}', probe, target)
        else:
            say(f'    compiled before, from the cache: {folder}')
        self.pip('install', '--force-reinstall', '--no-deps', wheel)
        write_json(self.folder / BUILD_RECORD, read_json(folder / 'build.json'))
        return folder

    def build_mmcv(self, folder, requirement, probe, target):
        """Compile mmcv into a folder beside ``folder`` and move it there when it is complete."""
        check_compiler()
        jobs = max_jobs(os.environ, *machine_size())
        say(f'    compiling {requirement} for torch {probe["torch"]} ({target}), {jobs} at a time: '
            f'about {duration(60 * (1 + 14 / jobs) * (1 if target == "cpu" else 3))}, once only')
        env = {'MMCV_WITH_OPS': '1', 'MAX_JOBS': str(jobs)}
        if target == 'cpu':
            env.update(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.building-', dir=self.cache) as temporary:
            # pip's own cache does not know which torch a wheel was compiled against.
            self.pip('wheel', '--no-cache-dir', '--no-build-isolation', '--no-deps',
                     '--no-binary', requirement.partition('==')[0], '-w', temporary,
                     requirement, **env)
            wheel = next(Path(temporary).glob('*.whl'))
            record = {'requirement': requirement, 'target': target, 'machine': platform.machine(),
                      'torch': probe['torch'], 'python': probe['python'],
                      'ext_sha256': ext_digest(wheel)}
            write_json(Path(temporary) / 'build.json', record)
            complete = Path(temporary) / 'complete'
            complete.mkdir()
            for path in (wheel, Path(temporary) / 'build.json'):
                path.rename(complete / path.name)
            shutil.rmtree(folder, ignore_errors=True)
            complete.rename(folder)
        return cached_wheel(folder)

    def verify(self, wheel_folder):
        """Import what was compiled; a cached wheel that does not work is compiled once more."""
        self.runner.capture([self.python, '-c', BASE_PROBE])
        try:
            self.runner.capture([self.python, '-c', OPS_PROBE])
        except StepFailed as failed:
            say(f'    mmcv.ops does not work ({last_line(failed.output)}): compiling it again')
            shutil.rmtree(wheel_folder, ignore_errors=True)
            self.install_mmcv()
            self.runner.capture([self.python, '-c', OPS_PROBE])
        self.runner.capture([self.python, '-c', 'import mmdet.models, mmpretrain'])

    def finish(self):
        """Write the stamp: from now on a second run has nothing to do."""
        write_json(self.folder / STAMP, stamp_for(self.stack, self.python_tag(), self.requirements))


def last_line(text):
    """Return the last line that is not empty: in a traceback, the error itself."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), '')


def cached_wheel(folder):
    """Return the wheel in a folder of the cache; None if it, or its record, is missing."""
    wheels = sorted(folder.glob('*.whl'))
    return wheels[0] if len(wheels) == 1 and read_json(folder / 'build.json') else None


def ext_digest(wheel):
    """Return the sha256 of the compiled operators in a wheel of mmcv.

    Raises:
        SetupError: If there are none: such a wheel installs without complaint and is useless.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if re.match(r'mmcv/_ext\..*\.?(so|pyd)$', n)]
        if not names:
            raise SetupError(f'{wheel.name} was built without compiled operators (mmcv/_ext): '
                             'its build did not see torch. Run `make clean env`.')
        return hashlib.sha256(archive.read(names[0])).hexdigest()


def check_machine(environment):
    """Check before the large downloads what would otherwise fail after them."""
    name, version = mmcv_requirement(environment.stack)
    if not any(environment.cache.glob(f'{name}-{version}-*/*.whl')):
        check_compiler()
    if not any(environment.folder.glob('lib/python*/site-packages/torch/version.py')):
        check_disk(environment.folder)


def install(environment):
    """Do all steps in their order, each announced with what it takes."""
    torch, openmmlab, runtime, dev = requirement_files(environment.stack)
    editable = ['install', '--no-deps', '--no-build-isolation', '-e', ROOT]
    made = {}
    steps = (
        ('virtual environment (10 s)', environment.create),
        ('torch and torchvision (2.5 GB to download: 1 to 10 min)',
         lambda: environment.install(torch)),
        ('mmcv with compiled operators (10 s if compiled before)',
         lambda: made.update(wheel=environment.install_mmcv())),
        ('OpenMMLab, the other libraries, the test tools (1 to 2 min)',
         lambda: environment.install(openmmlab, runtime, dev)),
        ('mmcontainer itself, editable (5 s)', lambda: environment.pip(*editable)),
        ('check that the compiled operators work (20 s)',
         lambda: environment.verify(made['wheel'])),
    )
    for number, (title, step) in enumerate(steps, 1):
        say(f'[{number}/{len(steps)}] {title}')
        try:
            step()
        except StepFailed as failed:
            raise SetupError(explain(title, failed, environment.log)) from None
    environment.finish()


def main(argv=None):
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--stack', choices=tuple(OPENMMLAB_FILE), default='onedl',
                        help='the maintained forks (default) or the upstream packages')
    parser.add_argument('--venv', default=None, help='folder of the environment')
    args = parser.parse_args(argv)
    venv = args.venv or ROOT / ('.venv' if args.stack == 'onedl' else '.venv-upstream')
    environment = Environment(args.stack, venv, cache_folder(os.environ))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        if environment.is_complete():
            say(f'Environment {environment.folder.name} ({args.stack}) is complete.')
            return 0
        say(f'Setting up {environment.folder} with the {args.stack} stack.')
        check_machine(environment)
        install(environment)
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say('\nInterrupted. Run the same command again: it goes on from here.')
        return 130
    say(f'Environment {environment.folder.name} is complete after '
        f'{duration(time.monotonic() - started)}.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
