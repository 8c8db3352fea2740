"""Training from scratch, resuming, scaling the learning rate, and checks of weights."""
import hashlib

import pytest
import torch
from torch import nn

from mmcontainer.cli.config_changes import (
    check_pretrained,
    scale_lr,
    set_loader_defaults,
    set_work_dir,
    train_from_scratch,
    weight_hashes,
)
from mmcontainer.cli.configs import load_config
from mmcontainer.errors import UserError

CONTAINER = 'mmcontainer::retinanet/container_light_fpn_1x_coco.py'
PAPER = 'mmcontainer::mask_rcnn/container_light_paper_fpn_1x_coco.py'
R50 = 'mmcontainer::retinanet/r50_fpn_1x_coco.py'


@pytest.mark.parametrize('config', [CONTAINER, PAPER, R50])
def test_from_scratch_unfreezes_everything(config):
    from mmengine.registry import MODELS, init_default_scope
    cfg = load_config(config)
    cfg.load_from = 'some.pth'
    changes = train_from_scratch(cfg)
    assert cfg.load_from is None
    backbone = cfg.model.backbone
    assert backbone.init_cfg is None
    assert backbone.norm_cfg.requires_grad is True
    assert backbone.norm_eval is False
    assert any('init_cfg' in change and 'None' in change for change in changes)
    assert any('norm_eval: True -> False' in change for change in changes)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model).train()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    norms = [module for module in model.backbone.modules()
             if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert not frozen
    assert norms and all(norm.training for norm in norms)


def test_from_scratch_of_a_config_that_says_nothing():
    """ResNet freezes its statistics by default; other initialisers stay."""
    cfg = load_config(CONTAINER)
    kaiming = dict(type='Kaiming', layer='Conv2d')
    cfg.model.backbone = dict(
        type='ResNet', depth=50, frozen_stages=1,
        init_cfg=[kaiming, dict(type='Pretrained', checkpoint='torchvision://resnet50')])
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint='detector.pth')
    train_from_scratch(cfg)
    assert cfg.model.init_cfg is None
    assert cfg.model.backbone.init_cfg == [kaiming]
    assert cfg.model.backbone.norm_eval is False
    assert cfg.model.backbone.frozen_stages == -1


def test_from_scratch_twice_changes_nothing():
    cfg = load_config(CONTAINER)
    train_from_scratch(cfg)
    assert train_from_scratch(cfg) == []


def test_missing_pretrained_weights(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for config, name in ((CONTAINER, 'container_light_in1k'),
                         (PAPER, 'container_light_paper_in1k')):
        with pytest.raises(UserError, match=f'(?s){name}.*--from-scratch'):
            check_pretrained(load_config(config))
    cfg = load_config(CONTAINER)
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'checkpoints' / 'container_light_in1k.pth').write_bytes(b'some')
    check_pretrained(cfg)
    assert weight_hashes(cfg) == {'checkpoints/container_light_in1k.pth':
                                  hashlib.sha256(b'some').hexdigest()[:16]}
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint='gone.pth')
    with pytest.raises(UserError, match='model.init_cfg.*gone.pth'):
        check_pretrained(cfg)
    check_pretrained(load_config(R50))  # downloaded by name


def test_work_dir():
    cfg = load_config(CONTAINER)
    set_work_dir(cfg, None, CONTAINER)
    assert cfg.work_dir == 'work_dirs/container_light_fpn_1x_coco'
    set_work_dir(cfg, 'here', CONTAINER)
    set_work_dir(cfg, None, CONTAINER)
    assert cfg.work_dir == 'here'


def test_scale_lr_warns_of_adam():
    cfg = load_config(CONTAINER)
    assert 'Beware' in scale_lr(cfg) and 'AdamW' in scale_lr(cfg)
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=16)
    cfg = load_config(R50)
    cfg.pop('auto_scale_lr')
    assert 'Beware' not in scale_lr(cfg)
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=16)


def test_workers_stack_the_images_of_classifiers_only():
    cfg = load_config('mmcontainer::imagenet/container_light_8xb128_in1k.py')
    cfg.val_dataloader.collate_fn = dict(type='pseudo_collate')
    set_loader_defaults(cfg)
    assert cfg.train_dataloader.collate_fn == dict(type='default_collate')
    assert cfg.train_dataloader.pin_memory is torch.cuda.is_available()
    assert cfg.val_dataloader.collate_fn == dict(type='pseudo_collate')
    detector = load_config(CONTAINER)
    set_loader_defaults(detector)
    assert 'collate_fn' not in detector.train_dataloader


@pytest.mark.parametrize('init_cfg', [
    'weights.pth', dict(type='StrictPretrained'), dict(checkpoint='weights.pth'),
    [dict(type='Pretrained', checkpoint=None)]])
def test_init_cfg_of_another_form(init_cfg):
    cfg = load_config(CONTAINER)
    cfg.model.backbone.init_cfg, cfg.model.backbone.norm_cfg = init_cfg, 'BN'
    for action in (check_pretrained, train_from_scratch):
        with pytest.raises(UserError, match=r"model.backbone.init_cfg: dict\(type='Strict"):
            action(cfg)
    cfg.model.backbone.init_cfg = None
    train_from_scratch(cfg)  # the backbone refuses such a norm_cfg itself
