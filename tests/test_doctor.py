"""Every diagnosis of the doctor, on made-up facts; and the doctor itself on this environment."""
import hashlib
import json
import subprocess
import sys

import pytest

from mmcontainer import compat, diagnosis, doctor

HEALTHY = {
    'versions': {'torch': '2.12.1+cu130', 'mmengine': '0.10.12', 'mmcv': '2.3.6', 'mmdet': '3.5.1',
                 'mmpretrain': '1.3.6', 'torchvision': '0.27.1', 'pycocotools': '2.0.11',
                 'einops': '0.8.2', 'numpy': '2.2.6', 'setuptools': '80.10.2'},
    'distributions': {'torch': ['torch'], 'mmengine': ['onedl-mmengine'], 'mmcv': ['onedl-mmcv'],
                      'mmdet': ['onedl-mmdetection'], 'mmpretrain': ['onedl-mmpretrain']},
    'imports': {name: {'error': None, 'found': True} for name in doctor.PROBES},
    'ext': {'file': 'mmcv/_ext.so', 'torch': '2.12.1+cu130', 'compiler': 'GCC 12.2',
            'cuda': 'not available'},
    'gpu': {'names': [], 'cuda': '13.0', 'nvcc': None, 'driver': False},
    'stack': 'onedl',
    'pkg_resources': True,
    'setup_command': None,
    'data': dict.fromkeys(doctor.COCO_TREE, True),
    'checkpoints': ['container_light_in1k.pth'],
}
UNDEFINED = ('ImportError: _ext.cpython-311-x86_64-linux-gnu.so: undefined symbol: '
             '_ZN3c1017RegisterOperatorsD1Ev')


def facts(errors=None, missing=(), versions=None, **changes):
    """Return the facts of a healthy environment with some changes."""
    result = json.loads(json.dumps(HEALTHY))
    for name, error in (errors or {}).items():
        result['imports'][name]['error'] = error
    for name in missing:
        result['imports'][name].update(found=False, error='ModuleNotFoundError: ' + name)
        result['versions'][name] = None
    result['versions'].update(versions or {})
    result.update(changes)
    return result


def upstream(**changes):
    """Return the facts of a healthy environment with the upstream stack."""
    versions = {'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0', 'mmpretrain': '1.2.0',
                'numpy': '1.26.4', **changes.pop('versions', {})}
    owners = {name: [name] for name in HEALTHY['distributions']}
    return facts(versions=versions, stack='openmmlab', distributions=owners, **changes)


def only(found, broken=True):
    """Return the only finding."""
    findings = diagnosis.diagnose(found)
    assert len(findings) == 1, findings
    assert findings[0].broken is broken
    return findings[0]


@pytest.mark.parametrize('healthy', [facts(), upstream()], ids=['onedl', 'upstream'])
def test_nothing_to_say_about_a_healthy_environment(healthy):
    assert diagnosis.diagnose(healthy) == []


def test_mmcv_without_ext():
    finding = only(facts(errors={'mmcv._ext': 'ImportError: cannot import name _ext'},
                         ext={'file': None, 'torch': None}))
    assert 'without its compiled operators' in finding.what
    assert finding.command == compat.install_command('mmcv', 'onedl')


def test_project_environment_is_mended_by_its_own_command():
    finding = only(facts(errors={'mmcv._ext': UNDEFINED}, setup_command='make env'))
    assert finding.command == 'make env'


@pytest.mark.parametrize('built, said', [('2.11.0+cu130', 'for torch 2.11.0+cu130'),
                                         (None, 'for another torch')])
def test_undefined_symbol(built, said):
    # A broken _ext breaks mmdet too; one command mends both, and is told once.
    finding = only(facts(errors={'mmcv._ext': UNDEFINED, 'mmdet': UNDEFINED},
                         ext={'file': 'x.so', 'torch': built}))
    assert said in finding.what and 'not for this torch 2.12.1+cu130' in finding.what
    assert '--no-cache-dir' in finding.command


def test_ext_that_loads_but_was_compiled_for_another_torch():
    finding = only(facts(ext={**HEALTHY['ext'], 'torch': '2.12.0+cu130'}))
    assert 'compiled for torch 2.12.0+cu130, this is torch 2.12.1+cu130' in finding.what


def test_ext_of_unknown_origin_that_loads_is_fine():
    assert diagnosis.diagnose(facts(ext={**HEALTHY['ext'], 'torch': None})) == []


def test_setuptools_without_pkg_resources_upstream():
    error = "ModuleNotFoundError: No module named 'pkg_resources'"
    finding = only(upstream(errors={'mmengine': error, 'mmcv': error}, pkg_resources=False,
                            versions={'setuptools': '82.0.0'}))
    assert 'setuptools 82.0.0 has no pkg_resources' in finding.what
    assert finding.command.endswith('-m pip install "setuptools<81"')


def test_no_pkg_resources_is_fine_with_the_default_stack():
    assert diagnosis.diagnose(facts(pkg_resources=False)) == []


def test_numpy_2_with_upstream():
    finding = only(upstream(versions={'numpy': '2.2.6'}))
    assert 'need NumPy 1' in finding.what
    assert '"numpy==1.26.4"' in finding.command


def test_mixed_stacks():
    owners = {**HEALTHY['distributions'], 'mmcv': ['onedl-mmcv', 'mmcv'],
              'mmdet': ['onedl-mmdetection', 'mmdet']}
    finding = only(facts(distributions=owners))
    assert 'onedl-mmcv and mmcv both provide mmcv' in finding.what
    uninstall, *install = finding.command.split(' && ')
    assert uninstall.endswith('pip uninstall -y onedl-mmcv mmcv onedl-mmdetection mmdet')
    assert any('onedl-mmdetection==3.5.1' in command for command in install)
    assert any('MMCV_WITH_OPS=1' in command for command in install)


def test_mmdet_of_the_other_stack():
    error = 'AssertionError: MMCV==2.3.6 is used but incompatible. Please install mmcv<2.2.0'
    finding = only(facts(errors={'mmdet': error}, versions={'mmdet': '3.3.0'},
                         distributions={**HEALTHY['distributions'], 'mmdet': ['mmdet']}))
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
    later = {'mmdet': error, 'mmcontainer': 'IncompatibleVersionError: mmcontainer needs ...'}
    finding = only(facts(missing=[module], errors=later))
    assert finding.what.startswith(f'{module} is not installed')
    assert finding.command == compat.install_command(module, 'onedl')


@pytest.mark.parametrize('module', ['mmdet', 'mmpretrain'])
def test_missing_optional_package_is_a_note(module):
    finding = only(facts(missing=[module]), broken=False)
    assert finding.command == compat.install_command(module, 'onedl')


def test_version_out_of_range():
    finding = only(facts(versions={'mmdet': '2.28.2'}))
    assert finding.what == 'mmdet 2.28.2 is installed, mmcontainer works with >=3.0.0,<4.0.0'


def test_cpu_torch_with_the_wrong_torchvision():
    error = 'RuntimeError: operator torchvision::nms does not exist'
    finding = only(facts(errors={'torchvision': error}, versions={'torch': '2.12.1+cpu'},
                         ext={**HEALTHY['ext'], 'torch': '2.12.1+cpu'}))
    assert 'whl/cpu "torchvision==0.27.1"' in finding.command


def test_torchvision_for_a_torch_other_than_the_tested_one():
    finding = only(facts(missing=['torchvision'], versions={'torch': '2.9.0'},
                         ext={**HEALTHY['ext'], 'torch': '2.9.0'}))
    assert finding.command.endswith('--upgrade "torch==2.9.0" "torchvision"')


def test_opencv_without_opengl():
    error = 'ImportError: libGL.so.1: cannot open shared object file: No such file or directory'
    finding = only(facts(errors={'cv2': error, 'mmcv': error, 'mmdet': error}))
    assert finding.command.startswith('sudo apt-get install libgl1')


def test_broken_import_of_something_else():
    finding = only(facts(errors={'pycocotools': 'ValueError: numpy.dtype size changed'}))
    assert '--force-reinstall --no-deps "pycocotools"' in finding.command


@pytest.mark.parametrize('nvcc, command', [('13.0', '--no-binary onedl-mmcv'),
                                           (None, 'cuda-toolkit=13.0')])
def test_gpu_that_mmcv_cannot_use_is_a_note(nvcc, command):
    finding = only(facts(gpu={'names': ['H200'], 'cuda': '13.0', 'nvcc': nvcc, 'driver': True}),
                   broken=False)
    assert 'for the CPU only' in finding.what and command in finding.command


def test_driver_too_old_is_a_note():
    finding = only(facts(gpu={'names': [], 'cuda': '13.0', 'nvcc': None, 'driver': True}),
                   broken=False)
    assert 'sees no GPU' in finding.what


def test_missing_data_and_checkpoints_are_notes():
    data = {**HEALTHY['data'], 'val2017': False}
    findings = diagnosis.diagnose(facts(data=data, checkpoints=[]))
    assert [finding.broken for finding in findings] == [False, False]
    assert 'missing: val2017' in findings[0].what and findings[0].command == 'make demo'
    assert 'convert_checkpoint.py' in findings[1].command


def test_probes_survive_a_crash():
    probes = {'a': 'print(json.dumps({"x": 1}))', 'crash': 'import os; os.abort()',
              'b': 'raise ImportError("no b\\nsecond line")', 'c': 'print("noise")'}
    results = doctor.try_imports(probes)
    assert results['a'] == {'error': None, 'detail': {'x': 1}}
    assert results['crash']['error'].startswith('the process died with code -')
    assert results['b']['error'] == 'ImportError: no b'
    assert results['c']['error'] is None
    assert list(results) == list(probes)


def test_build_record_counts_only_for_the_file_it_was_made_for(tmp_path):
    extension = tmp_path / '_ext.so'
    extension.write_bytes(b'compiled')
    assert doctor.built_for(extension, tmp_path) is None
    record = {'torch': '2.12.1', 'ext_sha256': hashlib.sha256(b'compiled').hexdigest()}
    (tmp_path / doctor.BUILD_RECORD).write_text(json.dumps(record))
    assert doctor.built_for(extension, tmp_path) == '2.12.1'
    extension.write_bytes(b'installed by hand since then')
    assert doctor.built_for(extension, tmp_path) is None
    assert doctor.built_for(None, tmp_path) is None


def test_setup_command_only_where_make_env_was_used(tmp_path, repo_root):
    assert doctor.setup_command(tmp_path) is None
    (tmp_path / doctor.STAMP).write_text(json.dumps({'stack': 'upstream'}))
    assert '--stack upstream' in doctor.setup_command(tmp_path)


def test_doctor_on_this_environment(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'mmcontainer.doctor'], cwd=tmp_path, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ('python', 'torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain',
                 'pycocotools', 'einops', 'numpy', 'setuptools', 'mmcv._ext', 'GPU', 'data/coco',
                 'checkpoints'):
        assert f'\n{word} ' in done.stdout, f'{word} is not shown'
    assert 'Nothing is broken.' in done.stdout


def test_exit_code_and_order(monkeypatch, capsys):
    broken = facts(missing=['mmdet'], versions={'mmcv': '1.7.0'})
    monkeypatch.setattr(doctor, 'collect', lambda: broken)
    assert doctor.main() == 1
    output = capsys.readouterr().out
    assert output.index('BROKEN: mmcv 1.7.0') < output.index('note: mmdet is not installed')
    assert '1 thing(s) to mend' in output
    monkeypatch.setattr(doctor, 'collect', lambda: facts(checkpoints=[]))
    assert doctor.main() == 0
