"""--resume with other settings than those that the checkpoint brings along."""
import copy

import pytest
import torch
from mmengine.config import Config

from mmcontainer.cli import resume_check
from mmcontainer.cli.configs import load_config
from mmcontainer.cli.resume_check import check_resumed_settings, read_config_text
from mmcontainer.errors import UserError

CONTAINER = 'mmcontainer::retinanet/container_light_fpn_1x_coco.py'
SGD = dict(
    train_cfg=dict(max_epochs=12),
    optim_wrapper=dict(type='OptimWrapper', clip_grad=None, paramwise_cfg=dict(
        custom_keys={'head.bias': dict(lr_mult=2.)}, norm_decay_mult=0.),
        optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4)),
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
        dict(type='CosineAnnealingLR', begin=0, eta_min=-float('inf'))])


def saved(cfg, **meta):
    return dict(meta=dict(cfg=Config(copy.deepcopy(cfg)).pretty_text, epoch=3, iter=9, **meta))


@pytest.fixture
def said(monkeypatch):
    texts = []
    monkeypatch.setattr(resume_check, 'print_log', lambda text, **kwargs: texts.append(text))
    return texts


@pytest.mark.parametrize(('key', 'value', 'old'), [
    ('optim_wrapper.optimizer.lr', 0.01, '0.02'),
    ('optim_wrapper.optimizer.weight_decay', 0., '0.0001'),
    ('optim_wrapper.optimizer.momentum', 0.8, '0.9'),
    ('optim_wrapper.optimizer.nesterov', True, 'not set'),
    ('optim_wrapper.optimizer.type', 'AdamW', 'SGD'),
    ('optim_wrapper.paramwise_cfg.norm_decay_mult', 1., '0.0'),
    ('param_scheduler.0.end', 100, '500'),
    ('param_scheduler.1.type', 'PolyLR', 'CosineAnnealingLR'),
    ('auto_scale_lr.enable', True, 'False'),
])
def test_what_differs_is_named(key, value, old):
    cfg = Config(copy.deepcopy(SGD))
    cfg.merge_from_dict({key: value})
    with pytest.raises(UserError) as caught:
        check_resumed_settings(cfg, saved(SGD), 'epoch_3.pth')
    message = str(caught.value)
    assert f'{key}: {old} in the checkpoint, {value} in the config' in message
    assert 'load_from=epoch_3.pth' in message and message.count(' in the checkpoint, ') == 1


def test_a_scheduler_more_or_less():
    for fewer, more in ((SGD['param_scheduler'][:1], SGD['param_scheduler']),
                        (SGD['param_scheduler'], SGD['param_scheduler'][:1])):
        with pytest.raises(UserError, match='param_scheduler.1.type: .*not set'):
            check_resumed_settings(Config(dict(SGD, param_scheduler=more)),
                                   saved(dict(SGD, param_scheduler=fewer)), 'x.pth')


def test_longer_training_with_a_schedule_that_has_no_end():
    longer = dict(SGD, train_cfg=dict(max_epochs=24))
    with pytest.raises(UserError, match=r'(?s)param_scheduler.1.end: 12 .*, 24 .*1.end=12'):
        check_resumed_settings(Config(longer), saved(SGD), 'x.pth')


def test_longer_training_with_the_same_schedule(said):
    fixed = dict(SGD, param_scheduler=[dict(SGD['param_scheduler'][1], end=12)])
    longer = dict(fixed, train_cfg=dict(max_epochs=24))
    check_resumed_settings(Config(longer), saved(fixed), 'x.pth')
    assert 'until epoch 24, not 12' in said.pop()
    check_resumed_settings(Config(dict(fixed, train_cfg=dict(max_epochs=3))), saved(fixed), 'x.pth')
    assert 'all 3 epochs' in said.pop()


def test_what_counts_as_it_stands_in_the_config(said):
    cfg = Config(copy.deepcopy(SGD))
    cfg.optim_wrapper.update(clip_grad=dict(max_norm=1.), type='AmpOptimWrapper',
                             accumulative_counts=2)
    cfg.optim_wrapper.optimizer.type = torch.optim.SGD  # the same, named as a class
    check_resumed_settings(cfg, saved(SGD), 'x.pth')
    # As the maintained MMEngine writes a class; the upstream one cannot.
    classes = saved(SGD)
    classes['meta']['cfg'] = classes['meta']['cfg'].replace("'SGD'", 'torch.optim.sgd.SGD')
    check_resumed_settings(Config(copy.deepcopy(SGD)), classes, 'x.pth')
    assert not said


@pytest.mark.parametrize('config', [
    CONTAINER, 'mmcontainer::retinanet/r50_fpn_1x_coco.py',
    'mmcontainer::imagenet/container_light_8xb128_in1k.py',
    'mmcontainer::detr/smca_detr_container_light_50e_coco.py',
    'mmcontainer::mask_rcnn/cotnet_50_fpn_1x_coco.py'])
def test_a_config_equals_its_own_text(config, said):
    cfg = load_config(config)
    check_resumed_settings(cfg, dict(meta=dict(cfg=cfg.pretty_text, epoch=1)), 'x.pth')
    assert not said
    cfg.optim_wrapper.optimizer.lr *= 2
    with pytest.raises(UserError, match='optimizer.lr'):
        check_resumed_settings(cfg, dict(meta=dict(cfg=load_config(config).pretty_text)), 'x.pth')


@pytest.mark.parametrize('text', [
    None, 5, 'not python (', 'optim_wrapper = dict(optimizer=open("harm", "w"))',
    'optim_wrapper = [open("harm", "w") for _ in "1"]'])
def test_unreadable_text_is_said_and_never_run(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_resumed_settings(Config(copy.deepcopy(SGD)), dict(meta=dict(cfg=text)), 'x.pth')
    assert 'does not say with which config' in said.pop()
    assert not list(tmp_path.iterdir())


def test_code_that_mmengine_would_run_is_taken_out():
    content = saved(SGD, config='open("harm", "w")')
    check_resumed_settings(Config(copy.deepcopy(SGD)), content, 'x.pth')
    assert 'config' not in content['meta']


def test_text_of_configs():
    text = Config(SGD).pretty_text
    assert read_config_text(text, ('train_cfg', 'nothing')) == dict(train_cfg=dict(max_epochs=12))
    wrapper = read_config_text(text, ('optim_wrapper', ))['optim_wrapper']
    assert wrapper['paramwise_cfg']['custom_keys'] == {'head.bias': dict(lr_mult=2.)}
