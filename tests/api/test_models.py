"""Backbones by name: ``create_model``, and the same through timm where it is installed."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_rule import make_state_dict

import mmcontainer
from mmcontainer import create_model, list_models
from mmcontainer.api.models import _table
from mmcontainer.backbones import CoAtNet, Container, ContainerPAM, CoTNet
from mmcontainer.errors import UserError

FAMILIES = (Container, ContainerPAM, CoTNet, CoAtNet)


def test_every_arch_of_every_backbone_has_a_name():
    names = list_models()
    assert len(names) == len(set(names)) == sum(len(cls.arch_settings) for cls in FAMILIES)
    assert list_models('cotnet*') == ['cotnet_101', 'cotnet_50']
    assert list_models('?e_cot*50') == ['se_cotnetd_50'] and list_models('resnet*') == []
    assert 'container_light_paper' in names and 'coatnet_4' in names and 'container_pam' in names


def test_names_stand_for_rows():
    rows = _table()  # the big ones would take a minute to build
    for name, (_, arch) in rows.items():
        assert name in (f'container_{arch}'.replace('-', '_'), arch.replace('-', '_'))
    assert set(rows.values()) == {(cls, arch) for cls in FAMILIES for arch in cls.arch_settings}


@pytest.mark.parametrize('name, cls, arch', [
    ('container_light', Container, 'light'), ('cotnet_50', CoTNet, 'cotnet-50'),
    ('coatnet_0', CoAtNet, 'coatnet-0'), ('container_pam', ContainerPAM, 'pam')])
def test_gives_the_maps_of_the_class(name, cls, arch):
    torch.manual_seed(0)
    model = create_model(name).eval()
    torch.manual_seed(0)
    expected, images = cls(arch).eval(), torch.rand(2, 3, 33, 47)
    with torch.no_grad():
        for ours, theirs in zip(model(images), expected(images)):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_official_weights_as_a_file_or_in_memory(tmp_path):
    official = make_state_dict('container_v1_light', seed=3, gain=0.6)
    torch.save({'model': official}, tmp_path / 'official.pth')
    expected = Container('light').eval()
    from mmcontainer.checkpoints import load_backbone
    load_backbone(expected, official)
    images = torch.randn(1, 3, 64, 96)
    for weights in (official, tmp_path / 'official.pth', str(tmp_path / 'official.pth')):
        model = create_model('container_light', pretrained=weights).eval()
        torch.testing.assert_close(model(images), expected(images), rtol=0, atol=0)


def test_arguments_of_the_class_and_names_of_timm():
    model = create_model('container_light', in_chans=1, out_indices=(1, 3), frozen_stages=1)
    assert (model.in_channels, model.out_indices, model.frozen_stages) == (1, (1, 3), 1)


@pytest.mark.parametrize('name, arguments, message', [
    ('container_lite', {}, r"no model 'container_lite'\. Did you mean 'container_light'"),
    ('cotnet-50', {}, "Did you mean 'cotnet_50'"),
    (None, {}, 'There is no model None'),
    ('container_light', dict(features_only=False), 'only features_only=True .* MMPretrain'),
    ('container_light', dict(pretrained=True), 'no.* address: pretrained=FILE'),
    ('container_light', dict(pretrained='gone.pth'), 'gone.pth'),
    ('container_light', dict(pretrained={}), 'no weights|holds no|empty|Expected'),
    ('container_light', dict(drop_path=0.1), "takes no 'drop_path'. Did you mean 'drop_path_rate'"),
    ('container_light', dict(arch='base'), 'takes no arch: the name'),
    ('container_light', dict(init_cfg={}), 'takes no init_cfg: pretrained=FILE'),
    ('container_light', dict(out_indices=(7, )), 'out_indices must be'),
    ('cotnet_50', dict(kv_stride=2), "takes no 'kv_stride'"),
])
def test_mistakes(name, arguments, message):
    with pytest.raises(UserError, match=message):
        create_model(name, **arguments)


def test_weights_of_another_model_or_none(tmp_path):
    torch.save({f'layer1.0.conv{i}.weight': torch.zeros(2, 2, 1, 1) for i in (1, 3)},
               tmp_path / 'cot.pth')
    (tmp_path / 'text.pth').write_text('no weights')
    for name, message in (('cot.pth', 'cot.pth'), ('text.pth', 'text.pth')):
        with pytest.raises(UserError, match=message):
            create_model('container_light', pretrained=tmp_path / name)


def test_wrong_inputs_name_what_is_expected():
    with pytest.raises(UserError, match='at least 32 x 32'):
        create_model('container_light')(torch.zeros(1, 3, 31, 64))


def test_what_the_package_offers():
    assert {'Detector', 'create_model', 'list_models'} <= set(dir(mmcontainer))
    with pytest.raises(AttributeError, match="'mmcontainer' has no attribute 'detect'"):
        mmcontainer.detect  # noqa: B018


# ---------------------------------------------------------------- timm

FAKE_TIMM = {
    '__init__.py': 'from . import models\nfrom .models import create_model\n',
    'models.py': '''
ENTRIES = {'coatnet_4': 'its own'}
is_model = ENTRIES.__contains__
def register_model(function):
    ENTRIES[function.__name__] = function
class FeatureInfo:
    def __init__(self, info, out_indices):
        self.info, self.out_indices = info, out_indices
def create_model(name, **kwargs):
    return ENTRIES[name](**kwargs)
'''}
IMPORTS = {'timm first': 'import timm, mmcontainer',
           'timm last': 'import mmcontainer, sys; assert "timm" not in sys.modules; import timm',
           'looked for': 'import mmcontainer, importlib.util as u; u.find_spec("timm"); '
                         'import timm.models, timm'}


def run_python(code, *paths):
    return subprocess.run([sys.executable, '-c', code], text=True, capture_output=True,
                          env={'PYTHONPATH': ':'.join(map(str, paths)), 'PATH': '/usr/bin:/bin'})


@pytest.fixture
def fake_timm(tmp_path):
    (tmp_path / 'timm').mkdir()
    for name, text in FAKE_TIMM.items():
        (tmp_path / 'timm' / name).write_text(text)
    return tmp_path, Path(mmcontainer.__file__).parents[1]


@pytest.mark.parametrize('order', IMPORTS)
def test_registers_in_whatever_order_they_are_imported(fake_timm, order):
    done = run_python(f'''
{IMPORTS[order]}
from timm.models import ENTRIES
print(sorted(ENTRIES) == mmcontainer.list_models(), ENTRIES['coatnet_4'])
model = timm.create_model('cotnet_50', features_only=True, num_classes=0, out_indices=(-2, -1))
print(model.out_indices, model.feature_info.out_indices, model.feature_info.info[3])
''', *fake_timm)
    assert done.stdout.splitlines() == [
        'True its own', "(2, 3) (2, 3) {'num_chs': 2048, 'reduction': 32, 'module': 'layer4'}"
    ], done.stderr


def test_a_timm_without_a_registry_is_a_warning(fake_timm):
    (fake_timm[0] / 'timm' / '__init__.py').write_text('')
    (fake_timm[0] / 'timm' / 'models.py').write_text('')
    done = run_python('import mmcontainer, timm; print(1)', *fake_timm)
    assert done.stdout == '1\n' and 'cannot register its backbones with this timm' in done.stderr


@pytest.fixture(scope='module')
def timm():
    timm = pytest.importorskip('timm', reason='timm is not installed: it is no requirement')
    mmcontainer.register_with_timm()  # a second time where it was imported before
    return timm


@pytest.mark.parametrize('name', ['container_light', 'cotnet_50', 'coatnet_0', 'container_pam'])
def test_timm_gives_our_maps(timm, name):
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True, in_chans=3, num_classes=0).eval()
    torch.manual_seed(0)
    expected, images = create_model(name).eval(), torch.rand(1, 3, 65, 97)
    maps = model(images)
    for ours, theirs in zip(maps, expected(images)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert model.feature_info.channels() == [one.shape[1] for one in maps]
    assert model.feature_info.reduction() == list(model.strides)
    modules = dict(model.named_modules())
    assert all(key in modules for key in model.feature_info.module_name())


def test_timm_lists_and_loads(timm, tmp_path):
    assert set(list_models()) <= set(timm.list_models())
    official = make_state_dict('container_v1_light', seed=3, gain=0.6)
    torch.save({'model': official}, tmp_path / 'official.pth')
    model = timm.create_model('container_light', features_only=True, pretrained=True,
                              pretrained_cfg_overlay=dict(file=str(tmp_path / 'official.pth')))
    expected = create_model('container_light', pretrained=official)
    assert all(torch.equal(value, expected.state_dict()[key])
               for key, value in model.state_dict().items())
    last = timm.create_model('container_light', features_only=True, out_indices=(-1, ))
    assert last.out_indices == (3, )
    assert timm.create_model('container_light', features_only=True,
                             out_indices=2).out_indices == (2, 3)


@pytest.mark.parametrize('arguments, message', [
    (dict(), 'only features_only=True'),
    (dict(features_only=True, pretrained=True), 'has no weights to download'),
    (dict(features_only=True, drop_block_rate=0.1), "takes no 'drop_block_rate'"),
])
def test_mistakes_through_timm(timm, arguments, message):
    with pytest.raises(UserError, match=message):
        timm.create_model('container_light', **arguments)
