"""Every diagnosis of the doctor, on made-up facts; and the doctor itself on real environments."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmcontainer import compat, doctor

HEALTHY = {
    'versions': {'torch': '2.12.1+cu130', 'mmengine': '0.10.12', 'mmcv': '2.3.6', 'mmdet': '3.5.1',
                 'mmpretrain': '1.3.6', 'torchvision': '0.27.1', 'numpy': '2.2.6',
                 'setuptools': '80.10.2', 'pycocotools': '2.0.11'},
    'owners': {'torch': ['torch'], 'mmengine': ['onedl-mmengine'], 'mmcv': ['onedl-mmcv'],
               'mmdet': ['onedl-mmdetection'], 'mmpretrain': ['onedl-mmpretrain']},
    'errors': {},
    'printed': {'torch': '', 'mmcv._ext': 'not available'},
    'ext': 'mmcv/_ext.so',
    'stack': 'onedl',
    'pkg_resources': True,
    'checkout': False,
}
UNDEFINED = ('ImportError: _ext.cpython-311-x86_64-linux-gnu.so: undefined symbol: '
             '_ZN3c1017RegisterOperatorsD1Ev')


def facts(missing=(), versions=None, **changes):
    """Return the facts of a healthy environment with some changes."""
    result = json.loads(json.dumps({**HEALTHY, **changes}))
    for name in missing:
        result['versions'][name] = None
        result['errors'][name] = f"ModuleNotFoundError: No module named '{name}'"
    result['versions'].update(versions or {})
    return result


def upstream(versions=None, **changes):
    """Return the facts of a healthy environment with the upstream stack."""
    versions = {'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0', 'mmpretrain': '1.2.0',
                'numpy': '1.26.4', **(versions or {})}
    return facts(versions=versions, stack='upstream', owners={m: [m] for m in HEALTHY['owners']},
                 **changes)


def only(found, broken=True):
    """Return the only finding."""
    findings = doctor.diagnose(found)
    assert len(findings) == 1, findings
    assert findings[0].broken is broken
    return findings[0]


@pytest.mark.parametrize('healthy', [facts(), upstream()], ids=['onedl', 'upstream'])
def test_nothing_to_say_about_a_healthy_environment(healthy):
    assert doctor.diagnose(healthy) == []


def test_mmcv_without_ext():
    finding = only(facts(errors={'mmcv._ext': 'ImportError: cannot import name _ext'}, ext=None))
    assert 'without its compiled operators' in finding.what
    assert finding.command == compat.install_command('mmcv', 'onedl')


def test_project_environment_is_mended_by_its_own_command():
    finding = only(facts(errors={'mmcv._ext': UNDEFINED}, checkout=True))
    assert finding.command == 'make clean env'


def test_operators_for_another_torch():
    # A broken _ext breaks mmdet too; one command mends both, and is told once.
    finding = only(facts(errors={'mmcv._ext': UNDEFINED, 'mmdet': UNDEFINED}))
    assert 'the installed torch 2.12.1+cu130' in finding.what and UNDEFINED in finding.what
    assert '--no-cache-dir' in finding.command


def test_setuptools_without_pkg_resources_upstream():
    error = "ModuleNotFoundError: No module named 'pkg_resources'"
    finding = only(upstream(errors={'mmengine': error, 'mmcv': error, 'mmcv._ext': error},
                            pkg_resources=False, versions={'setuptools': '82.0.0'}))
    assert 'setuptools 82.0.0 has no pkg_resources' in finding.what
    assert finding.command.endswith('-m pip install "setuptools<81"')


def test_no_pkg_resources_is_fine_with_the_default_stack():
    assert doctor.diagnose(facts(pkg_resources=False)) == []


def test_numpy_2_with_upstream():
    finding = only(upstream(versions={'numpy': '2.2.6'}))
    assert 'need NumPy 1' in finding.what
    assert '"numpy==1.26.4"' in finding.command


def test_mixed_stacks():
    finding = only(facts(owners={**HEALTHY['owners'], 'mmcv': ['onedl-mmcv', 'mmcv'],
                                 'mmdet': ['onedl-mmdetection', 'mmdet']}))
    assert 'onedl-mmcv and mmcv both provide mmcv' in finding.what
    uninstall, *install = finding.command.split(' && ')
    assert uninstall.endswith('pip uninstall -y onedl-mmcv mmcv onedl-mmdetection mmdet')
    assert any('onedl-mmdetection==3.5.1' in command for command in install)
    assert any('MMCV_WITH_OPS=1' in command for command in install)


def test_mmdet_of_the_other_stack():
    error = 'AssertionError: MMCV==2.3.6 is used but incompatible. Please install mmcv<2.2.0'
    finding = only(facts(errors={'mmdet': error}, versions={'mmdet': '3.3.0'},
                         owners={**HEALTHY['owners'], 'mmdet': ['mmdet']}))
    assert 'pip uninstall -y mmdet && ' in finding.command
    assert '"onedl-mmdetection==3.5.1"' in finding.command


def test_upstream_mmdet_refuses_a_newer_mmcv():
    error = 'AssertionError: MMCV==2.2.0 is used but incompatible. Please install mmcv<2.2.0'
    finding = only(upstream(errors={'mmdet': error}, versions={'mmcv': '2.2.0'}))
    assert '"mmcv==2.1.0"' in finding.command


def test_resume_blocked_by_weights_only():
    error = 'UnpicklingError: Weights only load failed. WeightsUnpickler error: HistoryBuffer'
    finding = only(upstream(errors={'resume': error}))
    assert 'cannot be resumed' in finding.what
    assert '"mmengine==0.10.7"' in finding.command


@pytest.mark.parametrize('module', ['torch', 'mmengine', 'mmcv'])
def test_missing_mandatory_package(module):
    error = f"ModuleNotFoundError: No module named '{module}'"
    later = {'torchvision': error, 'mmcv': error, 'mmcv._ext': error, 'mmdet': error,
             'mmcontainer': 'IncompatibleVersionError: mmcontainer needs ...'}
    if module != 'torch':
        later.pop('torchvision')
    finding = only(facts(missing=[module], errors=later))
    assert finding.what.startswith(f'{module} is not installed')
    assert finding.command == compat.install_command(module, 'onedl')


def test_backbones_alone_need_neither_compiled_operators_nor_numpy_1():
    found = upstream(versions={'numpy': '2.2.6', 'mmdet': None, 'mmpretrain': None,
                               'torchvision': None, 'pycocotools': None}, ext=None,
                     errors=dict.fromkeys(('torchvision', 'mmdet', 'mmpretrain', 'pycocotools',
                                           'mmcv._ext'), 'ModuleNotFoundError'))
    findings = doctor.diagnose(found)
    assert [finding.broken for finding in findings] == [False] * 3
    assert any('compiled operators' in finding.what for finding in findings)


@pytest.mark.parametrize('module', ['mmdet', 'mmpretrain'])
def test_missing_optional_package_is_a_note(module):
    finding = only(facts(missing=[module]), broken=False)
    assert finding.command == compat.install_command(module, 'onedl')


def test_version_out_of_range():
    finding = only(facts(versions={'mmdet': '2.28.2'}))
    assert finding.what == 'mmdet 2.28.2 is installed, mmcontainer works with >=3.0.0,<4.0.0'


@pytest.mark.parametrize('torch, command', [
    ('2.12.1+cpu', 'whl/cpu "torchvision==0.27.1"'),
    ('2.9.0', '--upgrade "torch==2.9.0" "torchvision"')])
def test_torchvision_for_another_torch(torch, command):
    error = 'RuntimeError: operator torchvision::nms does not exist'
    finding = only(facts(errors={'torchvision': error}, versions={'torch': torch}))
    assert finding.command.endswith(command)


def test_opencv_without_opengl():
    error = 'ImportError: libGL.so.1: cannot open shared object file: No such file or directory'
    names = ('cv2', 'mmcv', 'mmcv._ext', 'mmdet')
    finding = only(facts(errors=dict.fromkeys(names, error)))
    assert finding.what.endswith(' libGL.so.1')
    assert finding.command.startswith('sudo apt-get install libgl1')


def test_broken_import_of_something_else():
    finding = only(facts(errors={'pycocotools': 'ValueError: numpy.dtype size changed'}))
    assert '--force-reinstall --no-deps "pycocotools"' in finding.command


def test_gpu_that_mmcv_cannot_use_is_a_note():
    finding = only(facts(printed={'torch': 'H200', 'mmcv._ext': 'not available'}), broken=False)
    assert 'for the CPU only' in finding.what and '--no-binary onedl-mmcv' in finding.command


# ---------------------------------------------------------------- real processes

@pytest.mark.parametrize('code, expected', [
    ('print("noise")\nprint("told")', ('told', None)),
    ('import os; os.abort()', ('', 'the process died of signal 6')),
    ('raise ImportError("no b\\nsecond line")', ('', 'ImportError: no b')),
    ('import os; os._exit(3)', ('', 'the process ended with code 3'))])
def test_a_probe_survives_what_it_runs(code, expected):
    assert doctor.try_out(code) == expected


def run_doctor(how, folder, *paths):
    """Run the doctor in an empty folder, with a Python that looks into ``paths`` first."""
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, paths))}
    return subprocess.run([sys.executable, *how], cwd=folder, text=True, capture_output=True,
                          env=env)


@pytest.mark.slow
def test_doctor_on_this_environment(tmp_path):
    done = run_doctor(['-m', 'mmcontainer.doctor'], tmp_path, Path(doctor.__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ''
    for word in (*HEALTHY['versions'], 'mmcv._ext', 'GPU'):
        assert f'\n{word} ' in done.stdout, f'{word} is not shown'
    assert 'Nothing is broken.' in done.stdout


@pytest.mark.slow
def test_doctor_runs_where_the_import_fails(tmp_path):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / 'version.py').write_text("__version__ = '1.7.0'\n")
    (tmp_path / 'mmcv' / '__init__.py').touch()
    done = run_doctor([doctor.__file__], tmp_path, tmp_path, Path(doctor.__file__).parents[1])
    assert done.returncode == 1, done.stderr
    assert re.search(r'BROKEN: mmcv 1\.7\.0 is installed, mmcontainer works with >=', done.stdout)
    assert 'to mend' in done.stdout
