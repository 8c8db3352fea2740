"""Random number generators as part of a checkpoint. Whole runs: tests/e2e/test_resume.py."""
import random
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import worker_init_fn
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner
from tiny_training import Model, Numbers

from mmcontainer.engine.rng_state import RNGStateHook, get_rng_state, seed_worker, set_rng_state
from mmcontainer.torch_compat import torch_load_as_called


def draw():
    return (random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn()),
            float(torch.rand(())))


def test_state_survives_a_safely_read_checkpoint(tmp_path):
    random.gauss(0, 1)  # leaves the second of a pair behind, which is part of the state
    np.random.randn()
    torch.save(get_rng_state(), tmp_path / 'state.pth')
    expected = [draw(), draw()]
    set_rng_state(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert [draw(), draw()] == expected


def test_workers_have_streams_of_their_own():
    def stream(**changes):
        seed_worker(**{**dict(worker_id=0, seed=1, epoch=2, rank=3), **changes})
        return draw()

    assert stream() == stream()
    others = [stream(worker_id=1), stream(seed=2), stream(epoch=3), stream(rank=4),
              stream(seed=2, epoch=1)]
    assert len({*others, stream()}) == 6
    assert all(len(set(values)) == 6 for values in zip(stream(), *others))


def test_initialiser_of_the_user_comes_last():
    def own(worker_id):
        random.seed(worker_id)

    seed_worker(5, seed=1, epoch=2, rank=3, inner=own)
    value = random.random()
    random.seed(5)
    assert value == random.random()


def test_seeds_of_mmengine_do_not_come_last():
    inner = partial(worker_init_fn, num_workers=1, rank=0, seed=7)
    seed_worker(0, seed=1, epoch=2, rank=0, inner=inner)
    first = draw()
    seed_worker(0, seed=1, epoch=3, rank=0, inner=inner)
    assert first != draw()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_cuda_generator():
    state = get_rng_state()
    expected = torch.rand(3, device='cuda')
    set_rng_state(state)
    assert torch.equal(torch.rand(3, device='cuda'), expected)


@pytest.mark.parametrize('saved, epoch, iteration, text', [
    (dict(epoch_length=10, into_epoch=0), 2, 20, 'An epoch had 10 iterations .* and has 6 now'),
    (dict(epoch_length=6, into_epoch=2), 1, 8, 'written 2 iterations into epoch 2'),
    (dict(epoch_length=6, into_epoch=0), 2, 12, ''),
    (dict(epoch_length=6, into_epoch=0), 2, 16, ''),  # resumed before: epochs of 10, then of 6
    ({}, 2, 12, '')])  # of a training without this hook
def test_what_is_said_of_an_epoch_that_is_resumed(saved, epoch, iteration, text):
    """Never "-2 iterations into epoch 2", which a smaller batch once gave."""
    said = []
    runner = SimpleNamespace(epoch=epoch, iter=iteration, train_dataloader=range(6),
                             logger=SimpleNamespace(warning=said.append), _resume=True)
    hook = RNGStateHook()
    hook.after_load_checkpoint(runner, dict(rng_state=dict(ranks=[{}, {}], **saved)))
    said.clear()  # that other processes wrote it
    hook._warn_mid_epoch(runner)
    assert bool(said) == bool(text) and re.search(text, ''.join(said))


class Better(BaseMetric):
    """The first validation is the best."""
    validations = 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.validations += 1
        return dict(number=self.validations)


def test_the_best_checkpoint_has_the_state_too(tmp_path):
    """A training that counts iterations is validated where no checkpoint is due."""
    loader = dict(batch_size=2, dataset=Numbers(), num_workers=0)
    Runner(
        Model(), str(tmp_path), experiment_name=tmp_path.name,
        train_dataloader=dict(**loader, sampler=dict(type='InfiniteSampler')),
        val_dataloader=dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=False, max_iters=4, val_interval=3), val_cfg=dict(),
        val_evaluator=[Better()], optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook', interval=4, by_epoch=False,
                                           save_best='number', rule='less')),
        custom_hooks=[dict(type='RNGStateHook')]).train()
    for name, iteration in (('best_number_iter_3', 3), ('iter_4', 4)):
        with torch_load_as_called():
            content = torch.load(tmp_path / f'{name}.pth', weights_only=False)
        assert content['rng_state']['iter'] == iteration
