"""The wheel, the sdist and the editable install, each used from an empty folder."""
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

CONFIG = 'retinanet/container_light_fpn_1x_coco.py'
# Run by a Python that has the package installed, in a folder that holds nothing else.
USE_IT = f'''
import sys, torch, mmcontainer
from mmengine.config import Config
from mmengine.registry import MODELS
with open('mine.py', 'w') as file:
    file.write("_base_ = 'mmcontainer::{CONFIG}'\\nmodel = dict(bbox_head=dict(num_classes=3))\\n")
cfg = Config.fromfile('mine.py')
assert cfg.model.backbone.type == 'ContainerLight', cfg.model.backbone
assert cfg.model.bbox_head.num_classes == 3
cfg.model.backbone.pop('init_cfg', None)
from mmdet.utils import register_all_modules
register_all_modules()
detector = MODELS.build(dict(cfg.model, type='mmdet.' + cfg.model.type))
backbone = MODELS.build(dict(type='ContainerLight')).eval()
shapes = [tuple(x.shape[1:]) for x in backbone(torch.zeros(1, 3, 64, 64))]
assert shapes == [(64, 16, 16), (128, 8, 8), (320, 4, 4), (512, 2, 2)], shapes
print('PACKAGE', mmcontainer.__file__, type(detector).__name__, type(detector.backbone).__name__)
'''
pytestmark = pytest.mark.slow


def run(*command, cwd, **environ):
    """Run a command without this session's PYTHONPATH; return what it prints."""
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env={**env, **environ},
                          text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def tree(repo_root, tmp_path_factory):
    """A copy of what a commit would hold, so that building leaves nothing in the checkout."""
    if not (repo_root / '.git').exists():
        pytest.skip('needs a git checkout: asks git which files belong to the project')
    folder = tmp_path_factory.mktemp('tree') / 'mmcontainer-checkout'
    names = run('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard',
                cwd=repo_root).split('\0')
    for name in filter(None, names):
        if (repo_root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repo_root / name, folder / name)
    return folder


def pip_wheel(source, target):
    """Build the wheel of ``source`` with the build tools of this environment."""
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-w', target,
        source, cwd=target)
    return next(Path(target).glob('*.whl'))


@pytest.fixture(scope='module')
def wheel(tree, tmp_path_factory):
    """The wheel built from the checkout."""
    return pip_wheel(tree, tmp_path_factory.mktemp('wheel'))


def names_in(wheel):
    """Return the names of the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_the_package_and_mim_only(wheel, tree):
    names = names_in(wheel)
    assert {name.partition('/')[0] for name in names} == {
        'mmcontainer', 'mmcontainer_command.py',
        wheel.name.split('-')[0] + '-' + wheel.name.split('-')[1] + '.dist-info'}
    assert not [name for name in names if '__pycache__' in name]
    expected = {f'mmcontainer/.mim/{path.relative_to(tree).as_posix()}'
                for folder in ('configs', 'tools') for path in (tree / folder).rglob('*')
                if path.is_file()} | {'mmcontainer/.mim/model-index.yml'}
    assert {name for name in names if '/.mim/' in name} == expected
    data = {f'mmcontainer/{path.relative_to(tree / "mmcontainer").as_posix()}'
            for path in (tree / 'mmcontainer').rglob('*') if path.is_file()}
    assert data <= names, f'not in the wheel: {sorted(data - names)}'


def test_wheel_holds_every_metafile_and_config_it_lists(wheel):
    names = names_in(wheel)
    with zipfile.ZipFile(wheel) as archive:
        index = yaml.safe_load(archive.read('mmcontainer/.mim/model-index.yml'))
        assert index['Import']
        for metafile in index['Import']:
            assert f'mmcontainer/.mim/{metafile}' in names
            models = yaml.safe_load(archive.read(f'mmcontainer/.mim/{metafile}'))['Models']
            for model in models:
                assert f'mmcontainer/.mim/{model["Config"]}' in names


def test_metadata_never_pulls_one_stack_over_the_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        metadata = Parser().parsestr(archive.read(name).decode())
        top_level = archive.read(name.replace('METADATA', 'top_level.txt')).decode()
    # MMEngine takes the first one for the package of the distribution.
    assert top_level.split() == ['mmcontainer', 'mmcontainer_command']
    assert metadata['Name'] == 'mmcontainer' and metadata['License'] == 'Apache-2.0'
    requires = metadata.get_all('Requires-Dist')
    always = [line for line in requires if 'extra ==' not in line]
    assert not [line for line in always if re.match(r'(onedl-)?(mm|torch)', line)], always
    for extra, own, foreign in (('onedl', 'onedl-mm', r'mm'), ('openmmlab', 'mm', r'onedl-')):
        lines = [line for line in requires if re.search(rf'extra == .{extra}.$', line)]
        assert [line for line in lines if line.startswith(own)]
        assert not [line for line in lines if re.match(foreign, line)]
        assert not [line for line in lines if 'mmcv' in line]  # would be compiled without torch


def test_sdist_gives_the_same_wheel(tree, wheel, tmp_path):
    code = 'import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])'
    run(sys.executable, '-c', code, tmp_path, cwd=tree)
    archive = next(tmp_path.glob('*.tar.gz'))
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / 'unpacked', filter='data')
    source = next((tmp_path / 'unpacked').iterdir())
    assert not (source / 'tests').exists()
    again = pip_wheel(source, tmp_path)
    assert names_in(again) == names_in(wheel)


def test_wheel_in_a_clean_environment_from_an_empty_folder(wheel, tmp_path):
    venv, empty = tmp_path / 'venv', tmp_path / 'empty'
    empty.mkdir()
    run(sys.executable, '-m', 'venv', '--without-pip', venv, cwd=tmp_path)
    python = venv / 'bin' / 'python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', wheel,
        cwd=tmp_path)
    site = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))',
                    cwd=tmp_path).strip())
    # torch and OpenMMLab come from this environment. Its own .pth files are not processed when it
    # is added by a .pth file, so its editable mmcontainer does not come along.
    (site / 'parent.pth').write_text(sysconfig.get_path('purelib') + '\n')
    words = run(python, '-c', USE_IT, cwd=empty).split('PACKAGE ')[1].split()
    assert Path(words[0]) == site / 'mmcontainer' / '__init__.py'
    assert words[1:] == ['RetinaNet', 'ContainerLight']
    assert {path.name for path in empty.iterdir()} == {'mine.py'}
    # The command, whose tools lie inside of the package.
    script = venv / 'bin' / 'mmcontainer'
    assert '  train  ' in run(script, '--help', cwd=empty)
    assert run(script, 'infer', '--help', cwd=empty).startswith('usage: mmcontainer infer ')
    flops = run(script, 'flops', f'mmcontainer::{CONFIG}', '--shape', '64', '64', cwd=empty)
    assert 'FLOPs: ' in flops


def test_wheel_changes_no_installed_version(wheel, tmp_path):
    """pip, with an index of nothing: whatever it wanted beside the wheel would be an error."""
    run(sys.executable, '-m', 'pip', 'install', '--dry-run', '--no-index', '--report',
        'report.json', wheel, cwd=tmp_path)
    report = json.loads((tmp_path / 'report.json').read_text())
    assert {item['metadata']['name'] for item in report['install']} <= {'mmcontainer'}


def test_editable_install_from_an_empty_folder(repo_root, tmp_path):
    code = 'import importlib.util; print(importlib.util.find_spec("mmcontainer").origin)'
    assert Path(run(sys.executable, '-c', code, cwd=tmp_path).strip()) == (
        repo_root / 'mmcontainer' / '__init__.py'), (
        'mmcontainer is not installed editable here: run `make env`')


@pytest.mark.parametrize('path, ignored', [
    ('checkpoints/container_light_in1k.pth', True), ('data/coco/x.json', True),
    ('work_dirs/x/1.log', True), ('.venv/bin/python', True), ('.venv-upstream/bin/python', True),
    ('build/lib/x.py', True), ('mmcontainer/.mim/configs', False),
    ('mmcontainer/checkpoints/new_source.py', False), ('tests/data/new.json', False),
    ('configs/new/x.py', False), ('docs/data/x.png', False)])
def test_gitignore_hides_what_is_made_here_and_nothing_else(repo_root, path, ignored):
    if not (repo_root / '.git').exists():
        pytest.skip('needs a git checkout')
    done = subprocess.run(['git', 'check-ignore', '-q', '--no-index', path], cwd=repo_root)
    assert done.returncode == (0 if ignored else 1)
