"""tools/make_wheelhouse.py and tools/install_wheelhouse.py, without a network."""
import importlib.util
import json
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest


@pytest.fixture
def load(repo_root):
    """Return a function that imports a tool by name."""
    # pip switches off what setuptools makes of distutils, and torch's compiler needs setuptools.
    import setuptools  # noqa: F401

    def load(name):
        spec = importlib.util.spec_from_file_location(name, repo_root / f'tools/{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def maker(load):
    return load('make_wheelhouse')


@pytest.fixture
def make(maker, monkeypatch):
    """Return a function that runs the tool in this process."""
    def make(*arguments):
        monkeypatch.setattr(sys, 'argv', ['make_wheelhouse.py', *map(str, arguments)])
        maker.main()

    return make


def _fill(house, torchvision, without):
    (house.folder / 'x-1-py3-none-any.whl').write_bytes(b'wheel')


def test_pins_are_those_of_the_project(maker):
    stack, tools, mmcv = maker.read_pins()
    names = {pin.name for pin in (*stack, *tools)}
    assert {'onedl-mmengine', 'onedl-mmdetection', 'onedl-mmpretrain', 'pycocotools', 'matplotlib',
            'pytest', 'opencv-python-headless', 'setuptools', 'wheel', 'ninja', 'psutil',
            'packaging'} <= names
    assert not names & {'torch', 'torchvision', 'triton', 'onedl-mmcv', 'opencv-python', 'timm'}
    assert mmcv.name == 'onedl-mmcv'
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith('==')
               for pin in (*stack, *tools, mmcv))


def test_what_is_left_out_is_imported_nowhere(maker, load):
    left_out = [module for module, names in packages_distributions().items()
                if maker.NOT_NEEDED.intersection(names)]
    blocked = ''.join(f'sys.modules[{module!r}] = None\n' for module in left_out)
    probe = load('install_wheelhouse').PROBE_STACK
    subprocess.run([sys.executable, '-W', 'ignore', '-c', f'import sys\n{blocked}{probe}'],
                   check=True)


def test_a_folder_is_made_and_made_anew(make, maker, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(maker, 'fill', _fill)
    for _ in range(2):
        make('--python', '3.12', '--torch', '2.11', tmp_path / 'house')
        assert sorted(file.name for file in (tmp_path / 'house').iterdir()) == [
            'wheelhouse.json', 'x-1-py3-none-any.whl']
        assert [file.name for file in tmp_path.iterdir()] == ['house']
    assert '2 files' in capsys.readouterr().out


@pytest.mark.parametrize(('problem', 'code'), [
    (KeyboardInterrupt(), 130), (OSError(28, 'No space left on device'), 1)])
def test_a_failure_leaves_the_old_folder_and_nothing_else(problem, code, make, maker, tmp_path,
                                                          monkeypatch, capsys):
    monkeypatch.setattr(maker, 'fill', _fill)
    make('--python', '3.12', '--torch', '2.11', tmp_path / 'house')

    def fail(house, torchvision, without):
        (house.folder / 'half').write_bytes(b'')
        raise problem

    monkeypatch.setattr(maker, 'fill', fail)
    with pytest.raises(SystemExit) as stopped:
        make('--python', '3.12', '--torch', '2.11', tmp_path / 'house')
    message = str(stopped.value.code) + capsys.readouterr().err
    assert ('Interrupted' if code == 130 else 'No space left') in message
    assert [file.name for file in tmp_path.iterdir()] == ['house']
    assert (tmp_path / 'house/x-1-py3-none-any.whl').exists()


@pytest.mark.parametrize(('arguments', 'message'), [
    (('--python', '3', '--torch', '2.11'), 'two numbers are expected'),
    (('--python', '3.12', '--torch', 'new'), 'a version is expected'),
    (('--python', '3.12', '--torch', '1.13'), 'only releases 2.x'),
    (('--python', '3.12', '--torch', '2.11'), 'is no wheelhouse')])
def test_mistakes_are_messages(arguments, message, make, tmp_path):
    (tmp_path / 'house').mkdir()
    with pytest.raises(SystemExit, match=message):
        make(*arguments, tmp_path / 'house')


def test_what_pip_says_is_shown(maker, tmp_path, monkeypatch):
    house = maker.Wheelhouse(tmp_path, '3.12')
    monkeypatch.setattr(house, 'pip', lambda *arguments: 'WARNING: x\nERROR: no network\n')
    with pytest.raises(maker.WheelhouseError, match='could not download matplotlib.*3.12') as error:
        house.download('matplotlib')
    assert 'ERROR: no network' in str(error.value) and 'WARNING' not in str(error.value)


def test_a_wheel_for_this_machine_alone_is_refused(maker, tmp_path, monkeypatch):
    house = maker.Wheelhouse(tmp_path, '3.12')

    def pip(command, *arguments):
        if command == 'download':
            return 'ERROR: No matching distribution found for fast==1'
        folder = arguments[arguments.index('--wheel-dir') + 1]
        (maker.Path(folder) / 'fast-1-cp311-cp311-linux_x86_64.whl').write_bytes(b'')

    monkeypatch.setattr(house, 'pip', pip)
    with pytest.raises(maker.WheelhouseError, match='machines like this one only'):
        house.download('fast==1')


def test_torchvision_fits_torch(maker):
    assert maker.torchvision_for('2.11') == 'torchvision==0.26.*'
    assert maker.torchvision_for('2.12.1') == 'torchvision==0.27.*'


def test_a_wheelhouse_of_another_python_is_refused(load, tmp_path):
    installer = load('install_wheelhouse')
    (tmp_path / 'wheelhouse.json').write_text(json.dumps(
        dict(python='3.99', torch='2.11', mmcv='onedl-mmcv==2.3.6')))
    with pytest.raises(SystemExit, match='Python 3.99.*make another one'):
        installer.check(tmp_path, dict(version='2.11.0'))


def test_the_compiler_works_for_the_gpus_that_are_there(load, tmp_path, monkeypatch):
    installer = load('install_wheelhouse')
    for name in ('MAX_JOBS', 'TORCH_CUDA_ARCH_LIST', 'CUDA_HOME'):
        monkeypatch.delenv(name, raising=False)
    settings = installer.compiler_settings(dict(gpus=[], cuda='13.0'))
    assert settings['FORCE_CUDA'] == '0' and int(settings['MAX_JOBS']) >= 1
    (tmp_path / 'bin').mkdir()
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    with pytest.raises(SystemExit, match='no CUDA compiler.*13.0'):
        installer.compiler_settings(dict(gpus=[[9, 0]], cuda='13.0'))
    (tmp_path / 'bin/nvcc').touch()
    settings = installer.compiler_settings(dict(gpus=[[8, 0], [9, 0]], cuda='13.0'))
    assert settings['FORCE_CUDA'] == '1' and settings['TORCH_CUDA_ARCH_LIST'] == '8.0;9.0'


@pytest.mark.parametrize('arguments', [(), ('results', ), ('-', '--tiny')])
def test_usage_of_the_check(arguments, repo_root, tmp_path):
    done = subprocess.run([repo_root / 'tools/gpu_check.sh', *arguments], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 2 and 'usage:' in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_wheelhouse(repo_root, tmp_path):
    done = subprocess.run([repo_root / 'tools/gpu_check.sh', tmp_path, tmp_path / 'out'],
                          capture_output=True, text=True)
    assert done.returncode == 2 and 'was not made by' in done.stderr
