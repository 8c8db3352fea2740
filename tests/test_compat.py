"""The version check, and the two seams that mmcontainer fills in MMEngine."""
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint
from torch_versions import needs_torch

from mmcontainer import compat
from mmcontainer.checkpoints import files, load_file


def fake_versions(monkeypatch, **versions):
    """Let the check find these versions, and the installed ones for the other packages."""
    real = compat.installed_version
    monkeypatch.setattr(compat, 'installed_version', lambda module: (
        versions[module] if module in versions else real(module)))


def run_python(code, *paths):
    """Run code in a new Python that looks into ``paths`` first."""
    env = {'PYTHONPATH': ':'.join(map(str, paths)), 'PATH': '/usr/bin:/bin'}
    return subprocess.run([sys.executable, *code], text=True, capture_output=True, env=env)


def fake_module(folder, name, version, body=''):
    """Write a package ``name`` of a given version."""
    package = folder / name
    package.mkdir()
    (package / 'version.py').write_text(f"__version__ = '{version}'\n")
    (package / '__init__.py').write_text(f'from .version import __version__\n{body}\n')


@pytest.mark.parametrize('version, expected', [
    ('2.1.0', (2, 1, 0)), ('2.12.1+cu130', (2, 12, 1)), ('2.0.0rc4', (2, 0, 0)),
    ('1.26', (1, 26, 0)), ('3.5.1.post1', (3, 5, 1))])
def test_release(version, expected):
    assert compat.release(version) == expected


def test_release_refuses_what_is_no_version():
    with pytest.raises(ValueError, match='found .unknown.'):
        compat.release('unknown')


@pytest.mark.parametrize('module, version, accepted', [
    ('torch', '2.12.1+cu130', True), ('torch', '2.0.1', False), ('torch', '2.5.0', True),
    ('mmengine', '0.10.7', True), ('mmengine', '0.10.12', True), ('mmengine', '0.9.1', False),
    ('mmengine', '1.0.0', False), ('mmcv', '2.1.0', True), ('mmcv', '2.3.6', True),
    ('mmcv', '1.7.2', False), ('mmcv', '2.4.0', False), ('mmdet', '3.3.0', True),
    ('mmdet', '3.5.1', True), ('mmdet', '2.28.2', False), ('mmpretrain', '1.2.0', True),
    ('mmpretrain', '0.25.0', False)])
def test_ranges(module, version, accepted):
    assert compat.SUPPORTED[module].accepts(version) is accepted


def test_installed_stack_passes():
    compat.check_versions()


@pytest.mark.parametrize('module, version', [
    ('mmengine', '0.7.0'), ('mmcv', '1.7.0'), ('torch', '1.13.0'), ('mmdet', '2.28.0'),
    ('mmpretrain', '0.25.0')])
def test_incompatible_version_is_one_sentence_with_the_command(monkeypatch, module, version):
    fake_versions(monkeypatch, **{module: version})
    with pytest.raises(compat.IncompatibleVersionError) as caught:
        compat.check_versions()
    message = str(caught.value)
    assert '\n' not in message
    assert f'needs {module} {compat.SUPPORTED[module].range}, but found {version}' in message
    assert compat.install_command(module, compat.current_stack()) in message
    assert compat.doctor_command() in message


@pytest.mark.parametrize('module', ['torch', 'mmengine', 'mmcv'])
def test_missing_mandatory_package(monkeypatch, module):
    fake_versions(monkeypatch, **{module: None})
    with pytest.raises(ImportError, match=f'needs {module} .*it is not installed'):
        compat.check_versions()


@pytest.mark.parametrize('module', ['mmdet', 'mmpretrain'])
def test_missing_optional_package_is_no_error(monkeypatch, module):
    fake_versions(monkeypatch, **{module: None})
    compat.check_versions()


def test_mmcv_command_compiles_against_the_installed_torch():
    command = compat.install_command('mmcv', 'onedl')
    for needed in ('--no-build-isolation', '--no-cache-dir', 'MMCV_WITH_OPS=1', '--no-binary'):
        assert needed in command


@pytest.fixture
def supported(monkeypatch):
    """A table of supported versions that holds made-up modules."""
    table = {'mm_fake': compat.Supported('1.0.0', None, True, ('mm-fake',)),
             'mm_absent': compat.Supported('1.0.0', None, True, ('mm-absent',))}
    monkeypatch.setattr(compat, 'SUPPORTED', table)


def test_version_of_a_module_is_read_without_running_it(tmp_path, monkeypatch, supported):
    fake_module(tmp_path, 'mm_fake', '1.2.3', body='raise RuntimeError("must not run")')
    monkeypatch.syspath_prepend(tmp_path)
    assert compat.installed_version('mm_fake') == '1.2.3'
    assert compat.installed_version('mm_absent') is None


def test_version_falls_back_to_the_record_of_pip(tmp_path, monkeypatch, supported):
    (tmp_path / 'mm_fake').mkdir()
    (tmp_path / 'mm_fake' / '__init__.py').touch()
    info = tmp_path / 'mm_fake-4.5.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: mm-fake\nVersion: 4.5\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert compat.installed_version('mm_fake') == '4.5'


def test_import_refuses_an_old_mmcv(tmp_path):
    fake_module(tmp_path, 'mmcv', '1.7.0')
    done = run_python(['-c', 'import mmcontainer'], tmp_path, Path(compat.__file__).parents[1])
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('mmcontainer.compat.IncompatibleVersionError: mmcontainer needs mmcv')
    assert 'found 1.7.0' in last


@pytest.mark.parametrize('blocked', [('mmcv._ext', ), ('mmdet', 'mmpretrain', 'mmcv._ext')])
def test_backbones_register_without(blocked):
    code = f'''
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if (name + '.').startswith({tuple(f'{name}.' for name in blocked)!r}):
            raise ModuleNotFoundError('No module named ' + repr(name), name=name)
sys.meta_path.insert(0, Block())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {blocked!r} else found(
    name, package)
import mmcontainer, torch
from mmengine.registry import MODELS
model = MODELS.build(dict(type='ContainerLight'))
print(len(model(torch.zeros(1, 3, 64, 64))),
      [name for name in sys.modules if name.startswith({(*blocked, 'mmcv.ops')!r})])
'''
    done = run_python(['-c', code], Path(compat.__file__).parents[1])
    assert done.stdout.strip() == '4 []', done.stderr


def test_import_is_light():
    code = '''
import sys, mmcontainer
print([name for name in ('mmdet', 'mmpretrain', 'mmcv.ops', 'matplotlib.pyplot') if
       name in sys.modules])
'''
    done = run_python(['-c', code], Path(compat.__file__).parents[1])
    assert done.stdout.strip() == '[]', done.stdout + done.stderr


@needs_torch('2.6.0', "torch's own reading without running code")
def test_checkpoint_of_mmengine_loads_with_weights_only():
    # The maintained fork withdraws it whenever it has read a checkpoint, as other tests let it do.
    compat.allow_mmengine_checkpoints()
    buffer = HistoryBuffer([1., 2., 3.], [1, 1, 2])
    file = io.BytesIO()
    torch.save({'message_hub': {'log_scalars': {'train/loss': buffer}},
                'rng': np.array([1, 2], dtype=np.uint32), 'lr': np.float64(0.1)}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded['message_hub']['log_scalars']['train/loss'].mean() == buffer.mean()
    assert loaded['lr'] == 0.1 and loaded['rng'].tolist() == [1, 2]


@pytest.mark.parametrize('has_safe_load', [
    pytest.param(True, marks=needs_torch('2.6.0', 'reading by torch itself')), False])
def test_checkpoint_of_mmengine_resumes_through_its_own_loader(
        tmp_path, monkeypatch, has_safe_load):
    monkeypatch.setattr(files, 'HAS_SAFE_LOAD', has_safe_load)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    files.let_mmengine_read_safely()  # as the tools do
    path = tmp_path / 'iter_1.pth'
    torch.save({'message_hub': {'log_scalars': {'loss': HistoryBuffer([0.5], [1])}}}, path)
    loaded = _load_checkpoint(str(path), map_location='cpu')
    assert loaded['message_hub']['log_scalars']['loss'].current() == 0.5
    # After it, a detector may be built on what another training wrote.
    assert load_file(path)['message_hub']['log_scalars']['loss'].current() == 0.5


class Evil:
    """Pickles as a call of ``getattr`` that reaches for code."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


def test_getattr_stays_closed_for_anything_else():
    file = io.BytesIO()
    torch.save({'x': Evil()}, file)
    file.seek(0)
    with pytest.raises(Exception, match='may not ask for|Unsupported|not allowed') as caught:
        torch.load(file, weights_only=True)
    assert not isinstance(caught.value, AssertionError)
    with pytest.raises(ValueError, match='__init__'):
        compat.history_buffer_method(HistoryBuffer, '__init__')


def test_scope_is_registered_with_mmengine():
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import get_installed_path
    path = Path(get_installed_path(MODULE2PACKAGE['mmcontainer']))
    assert path == Path(compat.__file__).parent


def test_what_comes_out_of_our_configs_is_built_without_warnings(tmp_path, caplog):
    """MMEngine gives the scope 'mmcontainer' to it, and would say that there is no such package."""
    from mmengine.config import Config
    from mmengine.logging import MMLogger
    from mmengine.registry import HOOKS, MODELS, init_default_scope
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'mmcontainer::imagenet/container_light_8xb128_in1k.py'\n")
    cfg = Config.fromfile(path)
    assert cfg.custom_hooks[0]._scope_ == 'mmcontainer'
    init_default_scope(cfg.default_scope)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)  # it does not propagate
    try:
        model = MODELS.build(cfg.model)
        hook = HOOKS.build(cfg.custom_hooks[0])
    finally:
        logger.removeHandler(caplog.handler)
    assert [type(item).__name__ for item in (model, model.backbone, hook)] == [
        'ImageClassifier', 'ContainerLight', 'RNGStateHook']
    assert not [record.message for record in caplog.records
                if record.levelname == 'WARNING' and 'mmcontainer' in record.message]


def test_broken_library_names_the_doctor(tmp_path):
    """For example an mmcv that finds no pkg_resources, or an OpenCV without libGL."""
    fake_module(tmp_path, 'mmcv', '2.1.0', body="import no_such_library")
    done = run_python(['-c', 'import mmcontainer'], tmp_path, Path(compat.__file__).parents[1])
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "No module named 'no_such_library'" in last
    assert f'{compat.doctor_command()}` says how to mend it' in last


UNINSTALLED = '''
from importlib import metadata
distribution = metadata.distribution

def without_ours(name):
    if name == 'mmcontainer':
        raise metadata.PackageNotFoundError(name)
    return distribution(name)

metadata.distribution = without_ours
import mmcontainer
from mmengine.config import Config
with open('mine.py', 'w') as file:
    file.write("_base_ = 'mmcontainer::retinanet/container_light_fpn_1x_coco.py'")
print(mmcontainer.__file__, Config.fromfile('mine.py').model.backbone.type)
'''


def test_configs_of_a_checkout_that_is_not_installed(repo_root, tmp_path):
    """A fresh clone on PYTHONPATH brings its configs along: the links are part of it."""
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=repo_root, capture_output=True)
    if listed.returncode:
        pytest.skip('needs a git checkout: asks git which files belong to the project')
    clone = tmp_path / 'clone'
    for name in filter(None, listed.stdout.decode().split('\0')):
        if name.startswith(('mmcontainer/', 'configs/', 'model-index.yml')):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repo_root / name, clone / name, follow_symlinks=False)
    (tmp_path / 'empty').mkdir()
    done = subprocess.run([sys.executable, '-c', UNINSTALLED], cwd=tmp_path / 'empty', text=True,
                          capture_output=True, env={**os.environ, 'PYTHONPATH': str(clone)})
    assert done.stdout.split()[-2:] == [
        str(clone / 'mmcontainer' / '__init__.py'), 'ContainerLight'], done.stderr


def test_get_config_feeds_the_inferencers_of_other_libraries():
    """DetInferencer and get_model take a Config; by name they look in their own metafiles only."""
    from mmengine.hub import get_config
    from mmpretrain import get_model
    detector = get_config('mmcontainer::retinanet/container_light_fpn_1x_coco.py')
    classifier = get_config('mmcontainer::imagenet/container_light_8xb128_in1k.py')
    assert type(get_model(classifier).backbone).__name__ == 'ContainerLight'
    from mmdet.apis import DetInferencer
    from mmengine.registry import DefaultScope
    with DefaultScope.overwrite_default_scope('mmdet'):
        inferencer = DetInferencer(detector, device='cpu', show_progress=False)
        found = inferencer(np.zeros((64, 64, 3), np.uint8), no_save_vis=True)
    assert list(found['predictions'][0]) == ['labels', 'scores', 'bboxes']
