"""Mistakes in starting several processes. Real ones: tests/e2e/test_distributed.py."""
import pytest
import torch
from mmengine.config import Config

from mmcontainer.engine.distributed import setup_distributed
from mmcontainer.engine.errors import UserError


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


def test_buffers_are_averaged_and_other_hooks_stay(monkeypatch, torchrun):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    cfg = Config(dict(custom_hooks=[dict(type='RNGStateHook')]))
    for _ in range(2):
        setup_distributed(cfg, 'pytorch')
    assert [hook.type for hook in cfg.custom_hooks] == ['RNGStateHook', 'SyncBuffersHook']
