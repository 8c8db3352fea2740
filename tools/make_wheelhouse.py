#!/usr/bin/env python
"""Collect all packages that a machine without a network needs beside its own torch.

    tools/make_wheelhouse.py --python 3.12 --torch 2.11 DIR

DIR gets wheels of the default stack (requirements/onedl), of pytest, of what compiles mmcv, and of
this project, and the source of mmcv, which is compiled on the machine, against its torch and for
its GPU: tools/gpu_check.sh does that. torch and what belongs to it (nvidia-*, triton) stay out.
It is for x86-64 Linux with glibc 2.28 or later.
"""
import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

from pip._vendor.packaging.markers import default_environment
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name, parse_wheel_filename

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
STACK = ROOT / 'requirements/onedl/pyproject.toml'
PLATFORMS = ('manylinux_2_28_x86_64', 'manylinux_2_27_x86_64', 'manylinux_2_17_x86_64',
             'manylinux2014_x86_64', 'manylinux_2_12_x86_64', 'manylinux2010_x86_64',
             'manylinux_2_5_x86_64', 'manylinux1_x86_64')
# The machine's own. torchvision only on request: it must fit torch.
OF_THE_MACHINE = {'torch', 'torchvision', 'triton'}
# MMDetection imports it, and it depends on two packages of OpenCV at once.
WITHOUT_DEPENDENCIES = ('imaug', )
# imaug imports it in no function that MMDetection calls, and it depends on Numba, 60 MB.
NOT_NEEDED = {'imagecorruptions-imaug'}
# Without windows, which no tool here opens, it is smaller and needs no libraries of a desktop.
INSTEAD = {'opencv-python': 'opencv-python-headless'}
TEST_TOOLS = ('pytest', )
# What a wheel of this project is built from.
SOURCES = ('mmcontainer', 'configs', 'tools', 'setup.py', 'pyproject.toml', 'model-index.yml',
           'README.md', 'LICENSE', 'MANIFEST.in')
BIG_MB, GOAL_MB = 5, 60


class WheelhouseError(Exception):
    """What went wrong, as a message to a person."""


def read_pins():
    """Requirements as the project pins them: (stack, build tools, mmcv), lists of Requirement."""
    stack = tomllib.loads(STACK.read_text(encoding='utf-8'))
    uv = stack['tool']['uv']
    mmcv, = uv['no-binary-package']
    lines = list(stack['project']['dependencies'])
    for name in ('runtime.txt', 'dev.txt'):
        text = (ROOT / 'requirements' / name).read_text(encoding='utf-8')
        found = [line.strip() for line in text.splitlines() if re.match(r'\w', line)]
        lines += [line for line in found
                  if name == 'runtime.txt' or Requirement(line).name in TEST_TOOLS]
    pins = [Requirement(line) for line in lines]
    tools = [Requirement(line) for line in uv['extra-build-dependencies'][mmcv]]
    left_out = OF_THE_MACHINE | {mmcv}
    for pin in pins:
        pin.name = INSTEAD.get(pin.name, pin.name)
    return ([pin for pin in pins if pin.name not in left_out],
            [tool for tool in tools if tool.name not in left_out],
            next(pin for pin in pins if pin.name == mmcv))


class Wheelhouse:
    """A folder that is filled for a Python and a platform.

    Args:
        folder (Path): Exists and is empty.
        python (str): Such as '3.12'.
    """

    def __init__(self, folder, python):
        self.folder, self.python = folder, python

    def pip(self, *arguments):
        """Run pip; return its error messages, none if it has worked."""
        done = subprocess.run(
            [sys.executable, '-m', 'pip', '--disable-pip-version-check', *map(str, arguments)],
            capture_output=True, text=True)
        return done.stderr if done.returncode else None

    def download(self, *requirements, with_dependencies=True):
        """Download wheels for the target; pure-Python packages without one are built."""
        target = [f'--platform={platform}' for platform in PLATFORMS]
        options = ['--only-binary=:all:', f'--python-version={self.python}', *target,
                   '--implementation=cp', f'--find-links={self.folder}']
        if not with_dependencies:
            options.append('--no-deps')
        built = set()
        while True:
            errors = self.pip('download', '--quiet', '--dest', self.folder, *options, *requirements)
            if errors is None:
                return
            missing = re.search(r'No matching distribution found for ([^\s;]+)', errors)
            if missing is None or missing[1] in built:
                raise WheelhouseError(f'pip could not download {", ".join(map(str, requirements))} '
                                      f'for Python {self.python}:\n{last_lines(errors)}')
            built.add(missing[1])
            self.build(missing[1])

    def build(self, requirement):
        """Build a wheel from source, which must be one for every machine.

        Returns:
            Path: The wheel.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            errors = self.pip('wheel', '--quiet', '--no-deps', '--wheel-dir', place, requirement)
            if errors is not None:
                raise WheelhouseError(f'There is no wheel of {requirement} for Python '
                                      f'{self.python}, and none could be built:\n'
                                      f'{last_lines(errors)}')
            wheel, = Path(place).glob('*.whl')
            if not wheel.name.endswith('-none-any.whl'):
                raise WheelhouseError(f'There is no wheel of {requirement} for Python '
                                      f'{self.python}, and one built here ({wheel.name}) would '
                                      'run on machines like this one only.')
            return Path(shutil.move(str(wheel), str(self.folder / wheel.name)))

    def source(self, requirement):
        """Download the source of a package."""
        errors = self.pip('download', '--quiet', '--no-deps', '--no-binary', requirement.name,
                          '--dest', self.folder, requirement)
        if errors is not None:
            raise WheelhouseError(f'pip could not download the source of {requirement}:\n'
                                  f'{last_lines(errors)}')

    def wheels(self):
        """{canonical name: (version, file)} of all wheels."""
        found = {}
        for file in sorted(self.folder.glob('*.whl')):
            name, version = parse_wheel_filename(file.name)[:2]
            found[name] = str(version), file
        return found


def last_lines(text, number=4):
    """The end of pip's messages, without its warnings."""
    lines = [line for line in text.splitlines() if line.strip() and 'WARNING' not in line]
    return '\n'.join(f'  {line.strip()[:300]}' for line in lines[-number:])


def dependencies(wheel, python):
    """What a wheel requires on the target, without its extras, as Requirements."""
    with ZipFile(wheel) as archive:
        name, = [name for name in archive.namelist()
                 if re.fullmatch(r'[^/]+\.dist-info/METADATA', name)]
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    environment = {**default_environment(), 'python_version': python, 'sys_platform': 'linux',
                   'python_full_version': f'{python}.0', 'platform_system': 'Linux', 'extra': ''}
    found = [Requirement(line) for line in metadata.get_all('Requires-Dist', [])]
    return [one for one in found if one.marker is None or one.marker.evaluate(environment)]


def build_project(house):
    """Build this project from a copy: a build in the checkout would leave, and reuse, its files."""
    with tempfile.TemporaryDirectory(dir=house.folder) as place:
        for name in SOURCES:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, Path(place) / name, symlinks=True,
                                ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy2(ROOT / name, Path(place) / name)
        house.build(place)


def fill(house, torchvision, without):
    """Download and build everything, and write the list of what is to be installed."""
    stack, tools, mmcv = read_pins()
    say(f'{mmcv} (source)')
    house.source(mmcv)
    # OpenMMLab's packages depend on torch and mmcv: their own dependencies are taken one by one.
    alone = [pin for pin in stack if pin.name.startswith('onedl-')]
    alone += map(Requirement, WITHOUT_DEPENDENCIES)
    for pin in alone:
        say(str(pin))
        house.download(pin, with_dependencies=False)
    say('mmcontainer')
    build_project(house)
    names = {canonicalize_name(pin.name) for pin in (*stack, *alone, mmcv)}
    names |= OF_THE_MACHINE | NOT_NEEDED
    others = [pin for pin in stack if pin not in alone] + tools
    names |= {canonicalize_name(INSTEAD.get(name, name)) for name in names} | set(INSTEAD)
    for _, wheel in list(house.wheels().values()):
        for one in dependencies(wheel, house.python):
            if canonicalize_name(one.name) not in names:
                names.add(canonicalize_name(one.name))
                others.append(Requirement(f'{one.name}{one.specifier}'))
    # mmcv has no wheel that could be asked; it needs what MMEngine needs, and this.
    others += [Requirement('pillow')] if 'pillow' not in names else []
    say(f'{len(others)} other packages, and what they depend on')
    house.download(*dict.fromkeys(map(str, others)))
    if torchvision:
        say(torchvision)
        house.download(torchvision, with_dependencies=False)
    found = house.wheels()
    for name in map(canonicalize_name, without):
        if name not in found:
            raise WheelhouseError(f'--without {name}: it would not be in the wheelhouse anyway.')
        found.pop(name)[1].unlink()
    wrong = [name for name in found if name.startswith('nvidia-') or name in {'torch', 'triton'}]
    if wrong:
        raise WheelhouseError(f'{", ".join(wrong)} would replace what the machine has: one of the '
                              'packages has begun to depend on torch.')
    text = ''.join(f'{name}=={version}\n' for name, (version, _) in found.items())
    (house.folder / 'requirements.txt').write_text(
        '# All but mmcv, which is compiled; to be installed without dependencies.\n' + text,
        encoding='utf-8')


def say(text):
    """One line about what is being done."""
    print(f'  {text}', flush=True)


def report_sizes(folder):
    """Print what the folder weighs, and which packages are big."""
    sizes = sorted(((file.stat().st_size / 1e6, file.name) for file in folder.iterdir()),
                   reverse=True)
    total = sum(size for size, _ in sizes)
    print(f'{len(sizes)} files, {total:.1f} MB in {folder}')
    big = ', '.join(f'{name.split("-")[0]} {size:.0f}' for size, name in sizes if size > BIG_MB)
    if total > GOAL_MB:
        print(f'That is more than {GOAL_MB} MB. The big ones, in MB: {big}. --without NAME '
              'leaves out what the machine has.')


def torchvision_for(torch):
    """Requirement of the torchvision that fits a torch: 2.11 goes with 0.26."""
    major, minor = (int(part) for part in torch.split('.')[:2])
    if major != 2:
        raise WheelhouseError(f'--torch {torch}: only releases 2.x are known.')
    return f'torchvision==0.{minor + 15}.*'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--python', required=True, metavar='3.X', help='of the machine')
    parser.add_argument('--torch', required=True, metavar='2.X', help='that the machine has')
    parser.add_argument('--with-torchvision', action='store_true',
                        help='for a machine that has torch but no torchvision; the index has it '
                        'for the CUDA of the index\'s own torch, and with another torch it cannot '
                        'be imported')
    parser.add_argument('--without', type=lambda text: text.split(','), default=[],
                        metavar='NAME,NAME', help='packages that the machine has as well, such as '
                        'numpy,scipy')
    parser.add_argument('folder', type=Path, metavar='DIR', help='replaced if it is a wheelhouse')
    return parser.parse_args()


def make(args):
    """Fill a temporary folder beside DIR, which then takes its place."""
    if not re.fullmatch(r'3\.\d+', args.python):
        raise WheelhouseError(f'--python {args.python}: two numbers are expected, such as 3.12.')
    if not re.fullmatch(r'\d+\.\d+(\.\d+)?', args.torch):
        raise WheelhouseError(f'--torch {args.torch}: a version is expected, such as 2.11.')
    torchvision = torchvision_for(args.torch)
    target = args.folder.absolute()
    if target.exists() and not (target / 'wheelhouse.json').is_file():
        raise WheelhouseError(f'{target} is there already and is no wheelhouse: name another '
                              'folder, or remove it.')
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{target.name}.unfinished-',
                                     dir=target.parent) as place:
        folder = Path(place) / 'wheelhouse'
        folder.mkdir()
        print(f'Packages for Python {args.python} beside torch {args.torch}:')
        fill(Wheelhouse(folder, args.python), torchvision if args.with_torchvision else None,
             args.without)
        about = dict(python=args.python, torch=args.torch, mmcv=str(read_pins()[2]))
        (folder / 'wheelhouse.json').write_text(json.dumps(about, indent=1) + '\n')
        if target.exists():
            target.rename(Path(place) / 'old')
        folder.rename(target)
    report_sizes(target)


def main():
    # A SIGTERM cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        make(parse_args())
    except WheelhouseError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        sys.exit(f'error: {error.filename or ""} could not be written ({error.strerror}).')
    except KeyboardInterrupt:
        print('\nInterrupted; nothing was left behind.', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
