"""Configs that give classes, dotted paths or scoped names where others give registered names."""
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import SyncBuffersHook
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS
from torch import nn

from mmcontainer.backbones import ContainerLight
from mmcontainer.cli.config_changes import (
    add_hook,
    apply_amp,
    check_pretrained,
    scale_lr,
    train_from_scratch,
)
from mmcontainer.cli.configs import load_config
from mmcontainer.cli.distributed import replace_sync_bn
from mmcontainer.cli.resume_check import check_resumed_settings
from mmcontainer.cli.weights import check_pretrained_weights
from mmcontainer.engine.initializers import StrictPretrained
from mmcontainer.errors import UserError
from mmcontainer.type_names import type_name

STRICT = ['StrictPretrained', 'mmengine.StrictPretrained', StrictPretrained,
          'mmcontainer.engine.initializers.StrictPretrained']
SMALL = dict(ContainerLight.arch_settings['light'], embed_dims=(8, 8, 8, 16), depths=(1, 1, 1, 1))
BASE = """
from mmengine.optim import OptimWrapper
from torch.optim import AdamW

model = dict(backbone=dict(norm_cfg=dict(type='BN', requires_grad=False)))
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-4))
param_scheduler = []
"""
PURE = """
from mmengine.config import read_base

from mmcontainer.backbones import ContainerLight
from mmcontainer.engine.initializers import StrictPretrained

with read_base():
    from .base import *

model.backbone.update(
    type=ContainerLight, init_cfg=dict(type=StrictPretrained, checkpoint='gone.pth'))
"""


@pytest.mark.parametrize(('value', 'name'), [
    ('BN', 'BN'), ('mmdet.SyncBN', 'SyncBN'), (nn.SyncBatchNorm, 'SyncBatchNorm'),
    ('torch.nn.SyncBatchNorm', 'SyncBatchNorm'), (None, '')])
def test_name(value, name):
    assert type_name(value) == name


def make(kind, **more):
    return Config(dict(
        default_scope='mmdet', model=dict(backbone=dict(
            type=ContainerLight, norm_cfg=dict(type='BN', requires_grad=False),
            init_cfg=dict(type=kind, checkpoint='gone.pth'), **more))))


@pytest.mark.parametrize('kind', [
    *STRICT, 'Pretrained', 'mmengine.Pretrained', PretrainedInit, 'mmengine.model.PretrainedInit'])
def test_pretrained_weights_are_found_and_given_up(kind):
    cfg = make(kind)
    with pytest.raises(UserError, match='gone'):
        check_pretrained(cfg)
    train_from_scratch(cfg)
    assert cfg.model.backbone.init_cfg is None
    assert cfg.model.backbone.norm_cfg.requires_grad is True
    check_pretrained(cfg)


@pytest.mark.parametrize('kind', STRICT)
def test_backbones_load_them_last_and_strictly(kind, tmp_path):
    source = ContainerLight(SMALL)
    torch.save(source.state_dict(), tmp_path / 'weights.pth')
    model = ContainerLight(
        SMALL, init_cfg=dict(type=kind, checkpoint=str(tmp_path / 'weights.pth')))
    model.init_weights()
    torch.testing.assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)
    (tmp_path / 'weights.pth').unlink()
    with pytest.raises(UserError, match='no file'):
        check_pretrained_weights(model)


@pytest.mark.parametrize('kind', [
    'SyncBN', 'mmdet.SyncBN', nn.SyncBatchNorm, 'torch.nn.SyncBatchNorm'])
def test_synchronised_norms(kind):
    cfg = Config(dict(launcher='none', model=dict(neck=dict(norm_cfg=dict(type=kind)))))
    assert 'SyncBN becomes BN' in replace_sync_bn(cfg)
    assert cfg.model.neck.norm_cfg.type == 'BN'


@pytest.mark.parametrize('kind', ['SyncBuffersHook', 'mmengine.SyncBuffersHook', SyncBuffersHook])
def test_a_hook_is_not_added_twice(kind):
    cfg = Config(dict(custom_hooks=[dict(type=kind)]))
    add_hook(cfg, 'SyncBuffersHook')
    assert len(cfg.custom_hooks) == 1


def test_the_optimizer():
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type=torch.optim.AdamW))))
    assert 'For AdamW it is not established' in scale_lr(cfg)


def test_config_in_pure_python(tmp_path):
    (tmp_path / 'base.py').write_text(BASE)
    path = tmp_path / 'mine.py'
    path.write_text(PURE)
    cfg = load_config(str(path), {'model.backbone.drop_path_rate': 0.2})
    with pytest.raises(UserError, match='gone'):
        check_pretrained(cfg)
    changes = train_from_scratch(cfg)
    assert any('init_cfg' in change for change in changes) and not cfg.model.backbone.init_cfg
    check_pretrained(cfg)
    assert 'AdamW' in scale_lr(cfg)
    apply_amp(cfg, 'bf16')
    check_resumed_settings(cfg, dict(meta=dict(cfg=cfg.pretty_text)), 'x.pth')
    assert type(MODELS.build(cfg.model.backbone)) is ContainerLight
    with pytest.raises(UserError, match="'drop_path_rate'"):
        load_config(str(path), {'model.backbone.drop_path_rat': 0.2})
