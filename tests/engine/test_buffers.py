"""Buffers of several processes are averaged before a checkpoint by iteration is written."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import CheckpointHook
from torch import nn

from mmcontainer.engine import buffers


@pytest.mark.parametrize('iteration, is_due', [(0, False), (1, True), (2, False), (4, True)])
def test_buffers_are_averaged_where_a_checkpoint_is_due(monkeypatch, iteration, is_due):
    averaged = []
    monkeypatch.setattr(buffers, 'all_reduce_params', lambda tensors, op: averaged.append(
        (op, [tensor.shape for tensor in tensors])))
    hook = buffers.AverageBuffersHook()
    checkpoints = CheckpointHook(interval=2, by_epoch=False, save_last=True)
    runner = SimpleNamespace(model=nn.BatchNorm1d(3), hooks=[hook, checkpoints], iter=iteration,
                             max_iters=5, train_loop=SimpleNamespace(max_iters=5))
    hook.after_train_iter(runner, iteration)
    assert not averaged  # one process
    hook.distributed = True
    hook.after_train_iter(runner, iteration)
    assert averaged == ([('mean', [torch.Size([3])] * 2 + [torch.Size([])])] if is_due else [])
