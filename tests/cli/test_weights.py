"""The loader of whole models, and the runner that gets what it has checked."""
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden_rule import Fixture
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmcontainer.backbones import ContainerLight
from mmcontainer.checkpoints import CorruptCheckpointError, convert, load_file
from mmcontainer.cli import resume_check, weights
from mmcontainer.cli.resume_check import check_resumed_settings
from mmcontainer.cli.weights import (
    check_pretrained_weights,
    forget_pretrained,
    load_weights,
    local_file,
    prepare_loading,
)
from mmcontainer.errors import UserError


class Numbers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.full((3, ), float(index))


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)

    def forward(self, *rows, mode='tensor'):
        return dict(loss=self.norm(self.layer(torch.stack(rows))).sin().mean())


def make_runner(tmp_path, name, **kwargs):
    return Runner(
        Model(), str(tmp_path / name), experiment_name=f'{name}{torch.rand(1).item()}',
        train_dataloader=dict(batch_size=2, dataset=Numbers(), sampler=dict(
            type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=kwargs.pop('max_epochs', 1)),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)), **kwargs)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Checkpoint of one epoch of training."""
    folder = tmp_path_factory.mktemp('trained')
    make_runner(folder, 'run').train()
    return folder / 'run' / 'epoch_1.pth'


def test_all_weights_or_none(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    path = tmp_path / 'weights.pth'

    def save(**changes):
        state = {**model.state_dict(), **changes}
        torch.save(dict(state_dict={k: v for k, v in state.items() if v is not None}), path)
        return str(path)

    content = load_weights(model, save(**{'0.bias': torch.ones(4)}))
    assert torch.equal(model[0].bias, torch.ones(4)) and set(content) == {'state_dict'}
    load_weights(model, save(**{'1.num_batches_tracked': None}))  # files from other frameworks
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for changes, text in (
            ({'1.running_mean': None}, '1 missing in the checkpoint: 1.running_mean'),
            ({'0.bias': torch.zeros(9)}, r'1 of another shape: 0.bias \(model \(4,\)'),
            ({'2.weight': torch.zeros(9)}, '1 left over in the checkpoint: 2.weight'),
            ({'0.bias': torch.zeros(4).int()}, '1 of another kind of number: 0.bias')):
        with pytest.raises(UserError, match=f'(?s)weights.pth.*{text}'):
            load_weights(model, save(**{'0.weight': torch.ones(4, 3, 1, 1), **changes}))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    with pytest.raises(UserError, match='no checkpoint.*gone.pth'):
        load_weights(model, str(tmp_path / 'gone.pth'))


def test_addresses(tmp_path, monkeypatch):
    with pytest.raises(UserError, match='open-mmlab://'):
        local_file('open-mmlab://resnet50')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with pytest.raises(UserError, match='cannot be downloaded'):
        local_file('http://127.0.0.1:9/weights.pth')
    fetched = []
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, target: (
        fetched.append(url), torch.save(nn.Linear(2, 2).state_dict(), target)))
    model = nn.Linear(2, 2)
    for _ in range(2):
        load_weights(model, 'https://example.org/weights.pth')
    assert fetched == ['https://example.org/weights.pth']
    load_weights(model, 'https://example.com/weights.pth')  # another file of this name
    assert len(fetched) == 2


def test_a_download_that_is_no_checkpoint_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, target: Path(
        target).write_text('<html>'))
    with pytest.raises(CorruptCheckpointError, match='web page'):
        local_file('https://example.org/weights.pth')
    assert not list(tmp_path.rglob('*.pth'))


def test_resumed_training_equals_an_unbroken_one(trained, tmp_path):
    unbroken = make_runner(tmp_path, 'unbroken', max_epochs=3, load_from=str(trained), resume=True)
    unbroken.train()
    ours = make_runner(tmp_path, 'ours', max_epochs=3, load_from=str(trained), resume=True)
    prepare_loading(ours, str(trained))
    ours.train()
    assert ours.iter == unbroken.iter == 6
    torch.testing.assert_close(dict(ours.model.state_dict()), dict(unbroken.model.state_dict()))


def test_what_was_checked_is_loaded(trained, tmp_path):
    """Also where the file changes in between, and by MMEngine's rules would be another one."""
    path = tmp_path / 'moving.pth'
    path.write_bytes(trained.read_bytes())
    runner = make_runner(tmp_path, 'moved', load_from=str(path))
    content = prepare_loading(runner, str(path))
    torch.save({'state_dict': {}}, path)
    runner.load_or_resume()
    assert 'load_checkpoint' not in vars(runner), 'nor the content of the file'
    torch.testing.assert_close(
        dict(runner.model.state_dict()), dict(content['state_dict']), rtol=0, atol=0)
    torch.save({'model': content['state_dict']}, path)  # MMEngine would take nothing of it
    runner = make_runner(tmp_path, 'wrapped', load_from=str(path))
    prepare_loading(runner, str(path))
    runner.load_or_resume()
    torch.testing.assert_close(
        dict(runner.model.state_dict()), dict(content['state_dict']), rtol=0, atol=0)


def test_moving_averages_go_through_the_hooks(tmp_path):
    hooks = [dict(type=EMAHook)]
    make_runner(tmp_path, 'ema', custom_hooks=hooks).train()
    path = tmp_path / 'ema' / 'epoch_1.pth'
    runner = make_runner(tmp_path, 'more', custom_hooks=hooks, load_from=str(path), resume=True)
    content = load_file(path)
    prepare_loading(runner, str(path))
    runner.call_hook('before_run')
    runner.load_or_resume()
    # The hook keeps the trained weights as ema_state_dict, and the averaged ones as state_dict.
    assert torch.equal(runner.model.layer.weight, content['ema_state_dict']['module.layer.weight'])


@pytest.mark.parametrize('change, text', [
    (lambda c: c.pop('optimizer'), 'missing: optimizer'),
    (lambda c: c.pop('meta'), 'missing: meta'),
    (lambda c: c['meta'].pop('iter'), 'missing: meta.iter'),
    (lambda c: c.pop('message_hub'), 'message_hub'),
    (lambda c: c['meta'].update(epoch=True), 'missing: meta.epoch'),
    (lambda c: c['optimizer'].update(param_groups=3), 'none that PyTorch wrote'),
    (lambda c: c['optimizer'].update(state={'x': {}}), 'none that PyTorch wrote'),
    (lambda c: c.update(ema_state_dict={}), 'EMAHook'),
    (lambda c: c['optimizer']['param_groups'][0]['params'].pop(), '1 groups of 3 parameters'),
    (lambda c: c['optimizer']['state'][0].update(momentum_buffer=torch.ones(7)), '1 have another'),
    (lambda c: c['state_dict'].update({'layer.weight': torch.ones(9, 9)}), 'of another shape'),
    (lambda c: c['state_dict'].clear(), 'Expected a dict of tensors')])
def test_training_does_not_go_on_from_half_a_state(trained, tmp_path, change, text):
    content = load_file(trained)
    change(content)
    path = tmp_path / 'half.pth'
    torch.save(content, path)
    runner = make_runner(tmp_path, 'run', load_from=str(path), resume=True)
    with pytest.raises((UserError, ValueError), match=f'(?s)half.pth.*{text}'):
        prepare_loading(runner, str(path))


def test_training_does_not_go_on_with_settings_that_would_be_ignored(trained, tmp_path):
    content = load_file(trained)
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
    content['meta']['cfg'] = Config(dict(optim_wrapper=wrapper)).pretty_text
    path = tmp_path / 'epoch_1.pth'
    torch.save(content, path)
    runner = make_runner(tmp_path, 'run', load_from=str(path), resume=True)
    runner.cfg = Config(dict(optim_wrapper=wrapper))
    prepare_loading(runner, str(path))
    runner.cfg.optim_wrapper.optimizer.lr = 0.5
    with pytest.raises(UserError, match='optimizer.lr: 0.1 in the checkpoint, 0.5 in the config'):
        prepare_loading(runner, str(path))


def test_partial_load_of_averages(tmp_path):
    """MMPretrain's hook exchanges the weights beside them, of which some have no place."""
    pretrain = pytest.importorskip('mmpretrain.engine.hooks')
    hooks = [dict(type=pretrain.EMAHook, momentum=0.5)]
    make_runner(tmp_path, 'ema', custom_hooks=hooks).train()
    content = load_file(tmp_path / 'ema' / 'epoch_1.pth')
    content['state_dict']['layer.bias'] = content['ema_state_dict']['module.layer.bias'] = (
        torch.ones(5))
    path = tmp_path / 'other.pth'
    torch.save(content, path)
    runner = make_runner(tmp_path, 'run', custom_hooks=hooks, load_from=str(path))
    prepare_loading(runner, str(path), partial=True)
    runner.call_hook('before_run')
    runner.load_or_resume()
    assert torch.equal(runner.model.layer.weight, content['state_dict']['layer.weight'])


@pytest.mark.parametrize('batch, counts', [(4, 3), (2, 3), (4, 2)])
def test_accumulation_goes_on_in_epochs_of_another_length(trained, tmp_path, batch, counts):
    """MMEngine divides the last losses by what is left for the last step."""
    runner = make_runner(tmp_path, 'run', max_epochs=4, load_from=str(trained), resume=True)
    runner._train_dataloader['batch_size'] = batch
    runner.optim_wrapper['accumulative_counts'] = counts
    prepare_loading(runner, str(trained))
    divisors, scale = [], runner.optim_wrapper.scale_loss

    def watch(loss):
        divisors.append(round(1 / scale(torch.ones(())).item()))
        return scale(loss)

    runner.optim_wrapper.scale_loss = watch
    runner.train()
    first, last = 4 // batch, 4 * 4 // batch
    left = last % counts
    assert divisors == [counts if iteration < last - left else left
                        for iteration in range(first, last)]
    assert runner.iter == last


@pytest.mark.parametrize('is_frozen', [True, False])
def test_parameters_that_are_frozen_now_are_named(trained, tmp_path, monkeypatch, is_frozen):
    said = []
    monkeypatch.setattr(resume_check, 'print_log', lambda text, **kwargs: said.append(text))
    content, path = load_file(trained), tmp_path / 'epoch_1.pth'
    if not is_frozen:  # but it was
        del content['optimizer']['state'][0], content['optimizer']['state'][1]
    torch.save(content, path)
    runner = make_runner(tmp_path, 'run', load_from=str(path), resume=True)
    runner.model.layer.requires_grad_(not is_frozen)
    prepare_loading(runner, str(path))
    what = 'were trained are frozen' if is_frozen else 'had no gradients are trained'
    assert f'--resume: 2 parameters that {what} now' in '\n'.join(said)


def test_a_scaler_that_did_not_scale_is_left_out(trained, tmp_path):
    """float16 cannot go on with that of bfloat16."""
    content = load_file(trained)
    content['optimizer']['loss_scaler'] = {}
    path = tmp_path / 'epoch_1.pth'
    torch.save(content, path)
    runner = make_runner(tmp_path, 'run', load_from=str(path), resume=True)
    assert 'loss_scaler' not in prepare_loading(runner, str(path))['optimizer']


def test_a_scaled_learning_rate_needs_as_many_images(trained, tmp_path):
    content = load_file(trained)
    loader = dict(batch_size=2, dataset=dict(type='CocoDataset'))
    old = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), train_dataloader=loader,
               auto_scale_lr=dict(enable=True, base_batch_size=16))
    content['meta']['cfg'] = Config(old).pretty_text
    content['rng_state'] = dict(ranks=[None])
    check_resumed_settings(Config(old), content, 'epoch_1.pth')
    loader['batch_size'] = 8
    with pytest.raises(UserError, match='images per iteration: 2 in the checkpoint, 8 in the con'):
        check_resumed_settings(Config(old), content, 'epoch_1.pth')


def test_partial_load(trained, tmp_path, capsys):
    state = {'layer.weight': torch.ones(2, 3), 'layer.bias': torch.ones(5), 'more': torch.ones(1)}
    path = tmp_path / 'other.pth'
    torch.save(state, path)
    runner = make_runner(tmp_path, 'run', load_from=str(path))
    with pytest.raises(UserError, match='--allow-partial-load'):
        prepare_loading(runner, str(path))
    prepare_loading(runner, str(path), partial=True)
    assert ('1 of 7 weights of the model are loaded, 5 are not in the file, 1 have another shape '
            'there, 1 of the file have no place') in capsys.readouterr().out
    runner.load_or_resume()
    assert torch.equal(runner.model.layer.weight, torch.ones(2, 3))
    torch.save({'more': torch.ones(1)}, path)
    with pytest.raises(UserError, match='has nothing for this model'):
        prepare_loading(runner, str(path), partial=True)


def test_a_backbone_alone_is_no_detector(tmp_path):
    model = nn.Module()
    model.backbone, model.head = ContainerLight(), nn.Linear(2, 2)
    path = tmp_path / 'backbone.pth'
    torch.save(model.backbone.state_dict(), path)
    with pytest.raises(UserError, match="type='StrictPretrained', checkpoint='.*backbone.pth"):
        weights.read_for(model, str(path))


def test_pretrained_weights_are_checked_before_the_data(tmp_path):
    path = tmp_path / 'weights.pth'
    backbone = ContainerLight(init_cfg=dict(type='StrictPretrained', checkpoint=str(path)))
    model = SimpleNamespace(modules=lambda: [backbone])
    path.write_text('<html>')
    with pytest.raises(CorruptCheckpointError):
        check_pretrained_weights(model)
    torch.save(ContainerLight().state_dict(), path)
    check_pretrained_weights(model)
    path.unlink()
    forget_pretrained(model)  # a whole checkpoint replaces them
    check_pretrained_weights(model)


def test_the_schedule_of_the_learning_rate_is_part_of_the_state(trained, tmp_path):
    runner = make_runner(tmp_path, 'run', load_from=str(trained), resume=True,
                         param_scheduler=dict(type='MultiStepLR', milestones=[2]))
    with pytest.raises(UserError, match='missing: param_schedulers, 1 of them'):
        prepare_loading(runner, str(trained))


@pytest.mark.parametrize('value, text', [
    (torch.ones(7), '1 of another shape: layer.bias'), (torch.tensor([torch.inf, 0.]), 'infinity'),
    ('text', 'no tensors by name')])
def test_weights_beside_moving_averages_are_checked_too(tmp_path, value, text):
    hooks = [dict(type=EMAHook)]
    make_runner(tmp_path, 'ema', custom_hooks=hooks).train()
    path = tmp_path / 'ema' / 'epoch_1.pth'
    content = load_file(path)
    content['ema_state_dict']['module.layer.bias'] = value
    torch.save(content, path)
    runner = make_runner(tmp_path, 'more', custom_hooks=hooks, load_from=str(path), resume=True)
    with pytest.raises(UserError, match=f'ema_state_dict.*{text}'):
        prepare_loading(runner, str(path))


def test_the_config_in_a_checkpoint_is_never_run(trained, tmp_path):
    victim, path = tmp_path / 'victim', tmp_path / 'epoch_1.pth'
    content = load_file(trained)
    for key in ('config', 'cfg'):
        content['meta'][key] = f"open({str(victim)!r}, 'w')\na = 1\n"
    torch.save(content, path)
    runner = make_runner(tmp_path, 'run', max_epochs=2, load_from=str(path), resume=True)
    prepare_loading(runner, str(path))
    runner.train()
    assert runner.iter == 4 and not victim.exists()


def test_runners_with_other_rules_are_refused(trained):
    with pytest.raises(UserError, match='runner_type'):
        prepare_loading(SimpleNamespace(), str(trained))


@pytest.mark.parametrize('prepare', [dict, convert], ids=['official', 'converted'])
@pytest.mark.parametrize(('config', 'fixture'), [
    ('container_light_8xb128_in1k', 'container_v1_light__s1__224x224'),
    ('cotnet_50_8xb80_in1k', 'cotnet50__s1__224x224')])
def test_an_official_classifier_gives_its_logits(config, fixture, prepare, repo_root, tmp_path):
    fixture = Fixture(fixture)
    torch.save(prepare(fixture.state_dict), tmp_path / 'official.pth')
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(repo_root / f'configs/imagenet/{config}.py')
    model = MODELS.build(cfg.model).eval()
    load_weights(model, str(tmp_path / 'official.pth'))
    with torch.no_grad():
        logits = model.double()(fixture.model_input().double(), mode='tensor')
    assert fixture.relative_error('logits', logits) <= 1e-6


def test_an_official_classifier_of_another_arch_is_refused(repo_root, tmp_path):
    torch.save(dict(Fixture('cotnet50__s1__224x224').state_dict), tmp_path / 'official.pth')
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(repo_root / 'configs/imagenet/cotnet_101_8xb56_in1k.py')
    with pytest.raises(UserError, match='does not belong to this config'):
        load_weights(MODELS.build(cfg.model), str(tmp_path / 'official.pth'))
