"""From facts about an environment to what is wrong with it and the command that mends it.

Pure functions on the dict that ``mmcontainer.doctor.collect`` returns, standard library only.
"""
import re
from typing import NamedTuple

from .compat import STACKS, SUPPORTED, install_command, python_command, release

TESTED = {'torch': '2.12.1', 'torchvision': '0.27.1'}
UPSTREAM_LIMITS = 'numpy==1.26.4" "opencv-python==4.11.0.86'


class Finding(NamedTuple):
    """One thing to tell: ``broken`` ones make the doctor exit with 1, the others are notes."""
    broken: bool
    what: str
    command: str


def diagnose(facts):
    """Return the findings for an environment, causes before their consequences.

    Args:
        facts (dict): See ``mmcontainer.doctor.collect``.

    Returns:
        list[Finding]: Empty when there is nothing to say.
    """
    rules = (mixed_stacks, torch_pair, setuptools_without_pkg_resources, numpy_2_upstream,
             system_libraries, versions, compiled_operators, failing_imports, resume, gpu, folders)
    findings = []
    for rule in rules:
        findings.extend(rule(facts))
    return findings


def pip_install(*requirements, options=''):
    """Return the pip command for this Python."""
    wanted = ' '.join(f'"{requirement}"' for requirement in requirements)
    return f'{python_command()} -m pip install {options + " " if options else ""}{wanted}'


def mmcv_command(facts):
    """Return what compiles mmcv anew: the project's own command where it made the environment."""
    return facts['setup_command'] or install_command('mmcv', facts['stack'])


def error_of(facts, name):
    """Return the text of the error that importing ``name`` gave; '' if it works or is missing."""
    return facts['imports'].get(name, {}).get('error') or ''


def is_installed(facts, name):
    """True if ``name`` can be found, whether or not it can be imported."""
    return facts['imports'].get(name, {}).get('found', False)


def mixed_stacks(facts):
    """Two distributions that own the same module have overwritten each other's files."""
    twice = {name: owners for name, owners in facts['distributions'].items() if len(owners) > 1}
    if not twice:
        return
    owners = [dist for names in twice.values() for dist in names]
    again = [STACKS['onedl'][name] for name in twice if name != 'mmcv']
    commands = [f'{python_command()} -m pip uninstall -y {" ".join(owners)}']
    commands += [pip_install(*again, options='--no-deps')] if again else []
    commands += [install_command('mmcv', 'onedl')] if 'mmcv' in twice else []
    what = '; '.join(f'{" and ".join(o)} both provide {name}' for name, o in twice.items())
    yield Finding(True, f'Both stacks are installed over each other: {what}. Remove both, install '
                        'one again (here: the default one)', ' && '.join(commands))


def torch_pair(facts):
    """torchvision is compiled against one torch; mmdet and mmpretrain fail with it."""
    if not is_installed(facts, 'torch'):
        return
    torch, error = facts['versions'].get('torch') or '', error_of(facts, 'torchvision')
    missing = not is_installed(facts, 'torchvision')
    if error_of(facts, 'torch') or not (error or missing):
        return
    local = torch.partition('+')[2]
    options = '--force-reinstall --no-deps' + (
        f' --index-url https://download.pytorch.org/whl/{local}' if local == 'cpu' else '')
    if release(torch) == release(TESTED['torch']):
        command = pip_install(f'torchvision=={TESTED["torchvision"]}', options=options)
    else:  # which torchvision belongs to another torch only pip knows
        command = pip_install(f'torch=={torch.partition("+")[0]}', 'torchvision',
                              options='--upgrade')
    what = 'is missing' if missing else f'does not work with it ({error})'
    yield Finding(True, f'torch {torch} is installed, but torchvision {what}', command)


def setuptools_without_pkg_resources(facts):
    """setuptools 82 removed pkg_resources, which upstream MMEngine and mmcv import."""
    broken = any('pkg_resources' in error_of(facts, name) for name in facts['imports'])
    if not facts['pkg_resources'] and (facts['stack'] == 'openmmlab' or broken):
        yield Finding(True, f'setuptools {facts["versions"].get("setuptools") or "(missing)"} has '
                            'no pkg_resources, which the upstream packages import',
                      pip_install('setuptools<81'))


def numpy_2_upstream(facts):
    """The upstream packages were written for NumPy 1."""
    numpy = facts['versions'].get('numpy')
    if facts['stack'] == 'openmmlab' and numpy and release(numpy) >= (2, 0, 0):
        yield Finding(True, f'NumPy {numpy} is installed, the upstream packages need NumPy 1',
                      f'{python_command()} -m pip install "{UPSTREAM_LIMITS}"')


def system_libraries(facts):
    """OpenCV's wheels expect the desktop's OpenGL and GLib."""
    match = re.search(r'(lib(?:GL|gthread|glib)[\w.-]*): cannot open', error_of(facts, 'cv2'))
    if match:
        yield Finding(True, f'OpenCV does not find the system library {match.group(1)}',
                      'sudo apt-get install libgl1 libglib2.0-0')


def versions(facts):
    """Missing packages, and versions out of the supported range."""
    for row in SUPPORTED:
        version = facts['versions'].get(row.module)
        command = install_command(row.module, facts['stack'])
        command = mmcv_command(facts) if row.module == 'mmcv' else command
        if version is None:
            effect = ('mmcontainer needs it' if row.mandatory else
                      'the backbones work without it, the detectors and their configs do not'
                      if row.module == 'mmdet' else 'only needed for work with MMPretrain')
            yield Finding(row.mandatory, f'{row.module} is not installed ({effect})', command)
        elif not row.accepts(version):
            yield Finding(True, f'{row.module} {version} is installed, mmcontainer works with '
                                f'{row.range}', command)


def compiled_operators(facts):
    """mmcv without its compiled operators, or with operators for another torch."""
    torch, error = facts['versions'].get('torch'), error_of(facts, 'mmcv._ext')
    built = facts['ext'].get('torch')
    if not is_installed(facts, 'mmcv') or error_of(facts, 'torch') or torch is None:
        return
    if facts['ext'].get('file') is None:
        yield Finding(True, 'mmcv is installed without its compiled operators (mmcv._ext): NMS, '
                            'RoIAlign and with them the detectors do not work', mmcv_command(facts))
    elif error:
        known = f'for torch {built}' if built else 'for another torch'
        clear = re.search(r'undefined symbol|libtorch|libc10|libcudart|cannot open shared', error)
        what = f'were compiled {known}, not for this torch {torch}' if clear else 'cannot be loaded'
        yield Finding(True, f"mmcv's compiled operators {what} ({error})", mmcv_command(facts))
    elif built and built != torch:
        yield Finding(True, f"mmcv's operators were compiled for torch {built}, this is torch "
                            f'{torch}: they load, but may crash or compute nonsense',
                      mmcv_command(facts))


def failing_imports(facts):
    """What is installed in a right version and still cannot be imported."""
    explained = {'torchvision', 'mmcv._ext', 'resume'}
    missing = '|'.join(re.escape(name) for name, version in facts['versions'].items()
                       if version is None)
    consequence = (r"pkg_resources|lib(GL|gthread|glib)|_ext\b|undefined symbol"
                   r'|IncompatibleVersionError'
                   + (rf"|No module named '({missing})" if missing else ''))
    for name, entry in facts['imports'].items():
        error = entry.get('error')
        if not error or not entry.get('found') or name in explained:
            continue
        if re.search(consequence, error):  # of what the rules above name
            continue
        if name in ('mmdet', 'mmpretrain') and 'is used but incompatible' in error:
            owners = ' '.join(facts['distributions'].get(name) or [name])
            yield Finding(True, f'{name} refuses the installed mmcv or mmengine ({error})',
                          mmcv_command(facts) if facts['stack'] == 'openmmlab' else
                          f'{python_command()} -m pip uninstall -y {owners} && '
                          + install_command(name, 'onedl'))
            continue
        command = {
            'mmcontainer': facts['setup_command'] or pip_install(
                'PATH_TO_THE_CHECKOUT_OF_MMCONTAINER', options='--force-reinstall --no-deps'),
            'pycocotools': pip_install('pycocotools', options='--force-reinstall --no-deps'),
            'einops': pip_install('einops', options='--force-reinstall --no-deps'),
            'torch': pip_install(f'torch=={TESTED["torch"]}',
                                 f'torchvision=={TESTED["torchvision"]}',
                                 options='--force-reinstall'),
        }.get(name) or f'{python_command()} -m pip check'
        yield Finding(True, f'{name} cannot be imported ({error})', command)
    for name in ('pycocotools', 'einops'):
        if not is_installed(facts, name):
            yield Finding(True, f'{name} is not installed', pip_install(name))


def resume(facts):
    """From torch 2.6 on, MMEngine's checkpoints need its classes on torch's list of safe ones."""
    error = error_of(facts, 'resume')
    if error and not error_of(facts, 'mmcontainer'):
        yield Finding(True, f'Training cannot be resumed: torch refuses what MMEngine writes into '
                            f'its checkpoints ({error})', pip_install('onedl-mmengine==0.10.12')
                      if facts['stack'] == 'onedl' else
                      install_command('mmengine', 'openmmlab'))


def gpu(facts):
    """A GPU that is not used, or not by mmcv."""
    cuda, nvcc = facts['gpu'].get('cuda'), facts['gpu'].get('nvcc')
    if facts['gpu'].get('driver') and not facts['gpu'].get('names'):
        yield Finding(False, f'There is an NVIDIA driver, but torch {facts["versions"]["torch"]} '
                             'sees no GPU: the driver may be older than its CUDA '
                             f'({cuda or "a build without CUDA"})', 'nvidia-smi')
    elif facts['gpu'].get('names') and facts['ext'].get('cuda') == 'not available':
        if nvcc and cuda and nvcc.split('.')[0] == cuda.split('.')[0]:
            yield Finding(False, "mmcv's operators are compiled for the CPU only: detectors cannot "
                                 'use the GPU', mmcv_command(facts) if not facts['setup_command']
                          else 'make clean && make env')
        else:
            yield Finding(False, "mmcv's operators are compiled for the CPU only: detectors cannot "
                                 f'use the GPU. Compiling them for it needs nvcc of CUDA {cuda} '
                                 f'(found: {nvcc or "none"})',
                          f'conda install -c nvidia cuda-toolkit={cuda}')


def folders(facts):
    """Data and checkpoints: nothing is broken without them, but training on COCO needs both."""
    missing = [name for name, there in facts['data'].items() if not there]
    if missing:
        yield Finding(False, f'COCO is not complete in data/coco/ (missing: {", ".join(missing)}); '
                             'another place is given by `tools/train.py CONFIG --data-root DIR`. '
                             'Without any data', 'make demo')
    if not facts['checkpoints']:
        yield Finding(False, 'There are no converted weights in checkpoints/ (training from '
                             'scratch needs none: `--from-scratch`)',
                      f'{python_command()} tools/convert_checkpoint.py DOWNLOADED.pth '
                      'checkpoints/container_light_in1k.pth')
