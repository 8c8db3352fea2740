#!/usr/bin/env python
"""Make a virtual environment from a wheelhouse, around the torch of this Python, without a network.

    python tools/install_wheelhouse.py WHEELHOUSE VENV

mmcv is compiled against that torch: for the GPU of this machine, or for the CPU where there is
none. A run that was interrupted, or one with everything there already, is simply run again.
Read from the environment: MAX_JOBS, TORCH_CUDA_ARCH_LIST.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

# A compiler of CUDA takes up to so many bytes.
BYTES_PER_JOB = 4 * 2**30
PROBE_TORCH = '''
import json, torch
gpus = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
print(json.dumps(dict(version=torch.__version__, cuda=torch.version.cuda, gpus=sorted(set(gpus)))))
'''
PROBE_MMCV = '''
import sys, torch
from mmcv.ops import nms
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.]], device=sys.argv[1])
assert len(nms(boxes, torch.tensor([.9, .8], device=sys.argv[1]), .5)[1]) == 1
'''
# Everything that a training imports: a package that is missing shows here, not after the tests.
PROBE_STACK = 'import mmcontainer, mmdet.apis, mmdet.datasets, mmpretrain.apis, mmpretrain.datasets'


def fail(text):
    """Stop with a message."""
    sys.exit(f'error: {text}')


def run(*command, **variables):
    """Run a command; True if it worked."""
    return subprocess.run(list(map(str, command)), env={**os.environ, **variables}).returncode == 0


def probe_torch(python):
    """Version, CUDA and compute capabilities that torch sees."""
    done = subprocess.run([python, '-c', PROBE_TORCH], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ['no message'])[-1]
        fail(f'{python} cannot import torch ({last}). Name the Python that has it: '
             'PYTHON=/path/to/python tools/gpu_check.sh ...')
    return json.loads(done.stdout)


def check(wheelhouse, torch):
    """Compare the machine with what the wheelhouse was made for."""
    about = json.loads((wheelhouse / 'wheelhouse.json').read_text(encoding='utf-8'))
    found = '.'.join(map(str, sys.version_info[:2]))
    if found != about['python']:
        fail(f'{wheelhouse} holds packages for Python {about["python"]}, and {sys.executable} is '
             f'Python {found}: make another one, with --python {found}.')
    if not torch['version'].startswith(about['torch']):
        print(f'note: the wheelhouse was made for torch {about["torch"]}, here is '
              f'{torch["version"]}; mmcv is compiled for the one that is here.')
    return about['mmcv']


def compiler_settings(torch):
    """Environment variables of mmcv's build."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    jobs = max(1, min(len(os.sched_getaffinity(0)), memory // BYTES_PER_JOB))
    settings = dict(MMCV_WITH_OPS='1', MAX_JOBS=os.environ.get('MAX_JOBS', str(jobs)))
    if not torch['gpus']:
        return dict(settings, FORCE_CUDA='0')
    home = os.environ.get('CUDA_HOME')
    nvcc = Path(home, 'bin', 'nvcc') if home else shutil.which('nvcc') or Path(
        '/usr/local/cuda/bin/nvcc')
    if not Path(nvcc).is_file():
        fail('There is a GPU, but no CUDA compiler (nvcc) to compile mmcv for it. Set CUDA_HOME to '
             f'a CUDA toolkit of torch\'s release, {torch["cuda"]}.')
    architectures = ';'.join(f'{major}.{minor}' for major, minor in torch['gpus'])
    return dict(settings, FORCE_CUDA='1', CUDA_HOME=str(Path(nvcc).resolve().parents[1]),
                TORCH_CUDA_ARCH_LIST=os.environ.get('TORCH_CUDA_ARCH_LIST', architectures))


def install(wheelhouse, folder):
    """All steps; every one is quick if it was done before."""
    torch = probe_torch(sys.executable)
    mmcv = check(wheelhouse, torch)
    python = folder / 'bin' / 'python'
    if not python.exists():
        try:
            venv.create(folder, system_site_packages=True, with_pip=True)
        except (subprocess.CalledProcessError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            fail(f'{sys.executable} cannot make virtual environments ({error}); Debian has them in '
                 'python3-venv.')
    pip = (python, '-m', 'pip', '--disable-pip-version-check', 'install', '--no-index',
           '--find-links', wheelhouse, '--no-deps')
    if sys.prefix != sys.base_prefix:  # a virtual environment does not see another one by itself
        site, = folder.glob('lib/python*/site-packages')
        (site / 'around.pth').write_text(sysconfig.get_path('purelib') + '\n', encoding='utf-8')
    print('Installing the wheels ...', flush=True)
    if not run(*pip, '--quiet', '-r', wheelhouse / 'requirements.txt'):
        fail('pip could not install the wheels, see above.')
    device = 'cuda' if torch['gpus'] else 'cpu'
    if subprocess.run([python, '-c', PROBE_MMCV, device], capture_output=True).returncode:
        settings = compiler_settings(torch)
        print(f'Compiling {mmcv} for {settings.get("TORCH_CUDA_ARCH_LIST", "the CPU")}, '
              f'{settings["MAX_JOBS"]} compilers at once ...', flush=True)
        # Verbose: the log of a build that fails is all there is to look at.
        if not run(*pip, '--verbose', '--no-build-isolation', '--no-cache-dir',
                   '--force-reinstall', mmcv, **settings):
            fail('mmcv could not be compiled, see above. Where the compiler was killed, memory ran '
                 'out: MAX_JOBS=2.')
        if not run(python, '-c', PROBE_MMCV, device):
            fail("mmcv's compiled operators do not work, see above.")
    done = subprocess.run([python, '-c', PROBE_STACK], capture_output=True, text=True)
    if done.returncode:
        fail(f'{done.stderr}\nThe packages of the wheelhouse do not work together. Make another '
             'one; mmcv is not compiled again.')
    print(f'{folder} is complete: torch {torch["version"]}, mmcv on {device}.')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('wheelhouse', type=Path, metavar='WHEELHOUSE')
    parser.add_argument('venv', type=Path, metavar='VENV', help='folder to make')
    args = parser.parse_args()
    if not (args.wheelhouse / 'wheelhouse.json').is_file():
        fail(f'{args.wheelhouse} was not made by tools/make_wheelhouse.py.')
    try:
        install(args.wheelhouse.resolve(), args.venv.resolve())
    except KeyboardInterrupt:
        print('\nInterrupted; run it again to go on.', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
