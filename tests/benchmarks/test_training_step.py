"""The profile of a training step: every second counts once."""
import time

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from benchmarks.training_step import DATA, LOGGING, OVERHEAD, WARM_UP, Clock, Steps, Stop


class Nested:
    def outer(self):
        time.sleep(0.01)
        return self.inner()

    def inner(self):
        time.sleep(0.05)
        return 3


def test_a_part_inside_another_counts_once():
    clock, nested = Clock(), Nested()
    clock.wrap(nested, 'outer', 'outer')
    clock.wrap(nested, 'inner', 'inner')
    assert nested.outer() == 3
    parts = clock.take()
    assert 0.01 <= parts['outer'] < 0.04 and 0.05 <= parts['inner'] < 0.09
    assert not clock.take()


class SlowModel(BaseModel):
    """Takes 30 ms to look at a batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, inputs, mode='tensor'):
        time.sleep(0.03)
        return dict(loss=self.linear(inputs).mean())


class SlowData(torch.utils.data.Dataset):
    """Takes 10 ms to read a sample."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        time.sleep(0.01)
        return dict(inputs=torch.randn(4))


def test_steps_of_a_runner(tmp_path):
    loader = dict(dataset=SlowData(), batch_size=1, num_workers=0, drop_last=False,
                  sampler=dict(type='DefaultSampler', shuffle=False),
                  collate_fn=dict(type='default_collate'))
    runner = Runner(SlowModel(), str(tmp_path), train_dataloader=loader,
                    train_cfg=dict(by_epoch=True, max_epochs=1),
                    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))
    steps = Steps(2)
    runner.register_hook(steps, 'LOWEST')
    with pytest.raises(Stop):
        runner.train()
    assert len(steps.records) == 2 + WARM_UP
    rows = {row['form']: row['seconds'] for row in steps.rows()}
    assert 0.03 <= rows['forward and losses'] < 0.06 and 0.01 <= rows[DATA] < 0.03
    assert {'backward', 'optimizer', 'hooks', LOGGING, OVERHEAD} <= set(rows)
    assert all(seconds >= 0 for seconds in rows.values())
