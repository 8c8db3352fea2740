"""The learning rates that MMEngine makes of a config's schedule."""
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn


class _Point(BaseModel):

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode):
        return dict(loss=self.weight.sum())


class _Recorder(Hook):

    def __init__(self):
        self.rates = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])


def _runner(cfg, work_dir, iterations, custom_hooks=()):
    wrapper = dict(cfg.optim_wrapper, type='OptimWrapper', paramwise_cfg=None)
    return Runner(_Point(), str(work_dir), train_dataloader=dict(
                      dataset=[dict(inputs=torch.ones(1))] * iterations, batch_size=1,
                      num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)),
                  train_cfg=cfg.train_cfg, optim_wrapper=wrapper,
                  param_scheduler=cfg.param_scheduler,
                  default_hooks=dict.fromkeys(('logger', 'checkpoint', 'timer')),
                  custom_hooks=list(custom_hooks), log_level='ERROR', default_scope='mmpretrain')


def trained_rates(cfg, work_dir):
    """Train a single weight for all epochs of two iterations each.

    Returns:
        np.ndarray: (epochs, 2)
    """
    recorder = _Recorder()
    _runner(cfg, work_dir, 2, [recorder]).train()
    return np.reshape(recorder.rates, (-1, 2))


def stepped_rates(cfg, work_dir, iterations):
    """Step the schedules of iterations as a training would, without training.

    Returns:
        np.ndarray: (epochs * iterations, )
    """
    runner = _runner(cfg, work_dir, iterations)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    schedules = runner.build_param_scheduler(cfg.param_scheduler)
    assert not any(schedule.by_epoch for schedule in schedules)
    rates = []
    for _ in range(runner.max_iters):
        rates.append(runner.optim_wrapper.get_lr()['lr'][0])
        for schedule in schedules:
            schedule.step()
    return np.array(rates)
