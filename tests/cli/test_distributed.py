"""Mistakes in starting several processes. Real ones: tests/e2e/test_distributed.py."""
import pytest
import torch
from mmengine.config import Config

from mmcontainer.cli import distributed
from mmcontainer.cli.distributed import (
    check_same_checkpoint,
    replace_sync_bn,
    setup_distributed,
)
from mmcontainer.errors import UserError


@pytest.fixture
def torchrun(monkeypatch):
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_PORT'):
        monkeypatch.setenv(name, '1')
    monkeypatch.setenv('MASTER_ADDR', 'localhost')


def test_no_launcher_changes_nothing_else():
    cfg = Config(dict(a=1))
    setup_distributed(cfg, 'none')
    assert cfg.to_dict() == dict(a=1, launcher='none')


def test_not_started_by_torchrun(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(UserError, match='(?s)RANK.*dist_train.sh'):
        setup_distributed(Config(), 'pytorch')


def test_more_processes_than_gpus(monkeypatch, torchrun):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(UserError, match='has 1 GPUs'):
        setup_distributed(Config(), 'pytorch')


def test_slurm_without_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match='--launcher slurm needs GPUs'):
        setup_distributed(Config(), 'slurm')


@pytest.mark.parametrize('found', ['no checkpoint', 'epoch_4.pth (6 bytes)'])
def test_machines_that_see_other_checkpoints(monkeypatch, tmp_path, found):
    (tmp_path / 'epoch_4.pth').write_bytes(b'12345')
    cfg = Config(dict(load_from=str(tmp_path / 'epoch_4.pth'), resume=True))
    check_same_checkpoint(cfg)  # one process
    monkeypatch.setattr(distributed, 'all_gather_object', lambda own: [own, own, found])
    with pytest.raises(UserError, match='Process 0 starts from epoch_4.pth .5 bytes., process 2 '):
        check_same_checkpoint(cfg)


def test_buffers_are_averaged_and_other_hooks_stay(monkeypatch, torchrun):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    cfg = Config(dict(custom_hooks=[dict(type='SyncBuffersHook'), dict(type='RNGStateHook')]))
    for _ in range(2):
        setup_distributed(cfg, 'pytorch')
    assert [hook.type for hook in cfg.custom_hooks] == ['RNGStateHook', 'AverageBuffersHook']


@pytest.mark.parametrize(('launcher', 'gpu', 'changes'), [
    ('none', False, True), ('none', True, True), ('pytorch', False, True),
    ('pytorch', True, False)])
def test_sync_bn_where_nothing_synchronises(monkeypatch, launcher, gpu, changes):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    model = dict(backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=True)),
                 heads=[dict(norm_cfg=dict(type='GN')), dict(norm_cfg=dict(type='SyncBN'))])
    cfg = Config(dict(model=model, launcher=launcher, train_dataloader=dict(batch_size=2),
                      auto_scale_lr=dict(base_batch_size=16)))
    message = replace_sync_bn(cfg)
    kind = 'BN' if changes else 'SyncBN'
    assert cfg.model.backbone.norm_cfg == dict(type=kind, requires_grad=True)
    assert [head.norm_cfg.type for head in cfg.model.heads] == ['GN', kind]
    assert (message is not None) == changes
    if changes:
        assert 'see the 2 images of one process, not 16' in message
        assert replace_sync_bn(cfg) is None  # nothing left to say
