"""Statistics equal those of all values pooled, and nothing else notices the hook."""
import subprocess
import sys

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from mmcontainer.checkpoints import load_file
from mmcontainer.engine import PreciseBNHook
from mmcontainer.engine.precise_bn import _Moments, _untouched
from mmcontainer.engine.rng_state import get_rng_state


@pytest.fixture(autouse=True)
def _registered():
    classes = {MODELS: Toy, DATASETS: Noise, METRICS: Nothing}
    for registry, cls in classes.items():
        registry.register_module(module=cls, force=True)
    yield
    for registry, cls in classes.items():
        registry.module_dict.pop(cls.__name__)


class Noise(Dataset):
    """Pictures whose mean differs from one to the next; every access draws random numbers."""
    metainfo = {}

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return dict(inputs=torch.randn(3, 4, 4) * 0.1 + index)


class Nothing(BaseMetric):
    """Counts what it is given."""

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(number=len(results))


class Toy(BaseModel):
    """Norms of every kind, and a record of what the trained ones are given in each mode."""

    def __init__(self, norm='BN', frozen=False):
        super().__init__()
        kinds = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}
        self.norm, self.frozen_norm = kinds[norm](3), kinds[norm](3)
        self.unused_norm = kinds[norm](3)
        self.dropout, self.fc = nn.Dropout(0.5), nn.Linear(3, 1)
        self.all_frozen = frozen
        self.seen, self.evaluated, self.order = [], [], []

    def train(self, mode=True):
        super().train(mode)
        self.frozen_norm.eval()
        if self.all_frozen:
            self.norm.eval(), self.unused_norm.eval()
        return self

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = torch.stack(inputs)
        if mode == 'predict':
            self.evaluated.append((self.norm.running_mean.clone(), self.norm.running_var.clone()))
            return [BaseDataElement() for _ in inputs]
        if torch.is_grad_enabled():
            self.order.append(float(x.mean()))
            self.seen.clear()
        else:
            self.seen.append(x)
        x = self.frozen_norm(self.norm(x))
        assert self.dropout.training
        # A loss of its size that depends on the norms, and on what was drawn at random.
        loss = (self.fc(self.dropout(x.mean((2, 3)))) - 1).square().mean()
        return dict(loss=loss)


def run(tmp_path, hook=True, by_epoch=True, norm='BN', frozen=False, wrapper='OptimWrapper',
        num_iters=3, num_workers=0, interval=2, val_interval=2, save_last=True):
    loop = (dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=val_interval) if by_epoch
            else dict(type='IterBasedTrainLoop', max_iters=7, val_interval=val_interval))
    loader = dict(batch_size=2, num_workers=num_workers, dataset=dict(type='Noise'),
                  collate_fn=dict(type='pseudo_collate'),
                  persistent_workers=False)
    runner = Runner(
        model=dict(type='Toy', norm=norm, frozen=frozen), work_dir=str(tmp_path), train_cfg=loop,
        train_dataloader=dict(loader, sampler=dict(
            type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(), val_evaluator=dict(type='Nothing'),
        optim_wrapper=dict(type=wrapper, optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)),
        default_hooks=dict(checkpoint=dict(
            type='CheckpointHook', interval=interval, by_epoch=by_epoch, save_last=save_last)),
        custom_hooks=[dict(type='PreciseBNHook', num_iters=num_iters)] if hook else [],
        randomness=dict(seed=3), log_level='WARNING',
        experiment_name=f'{tmp_path.parent.name}_{tmp_path.name}')
    # MMEngine turns SyncBN into BN in a single process; here it is to be used as it is.
    if norm == 'SyncBN':
        runner.model = MODELS.build(dict(type='Toy', norm=norm))
    runner.train()
    return runner


def saved(tmp_path, name):
    return load_file(tmp_path / name)['state_dict']


@pytest.mark.parametrize('norm', ['BN', 'SyncBN'])
@pytest.mark.parametrize('by_epoch', [True, False])
def test_statistics_are_those_of_all_values_pooled(tmp_path, by_epoch, norm):
    runner = run(tmp_path, by_epoch=by_epoch, norm=norm)
    model = runner.model
    assert isinstance(model.norm, nn.SyncBatchNorm) == (norm == 'SyncBN')
    assert len(model.seen) == 3  # of the last update
    pooled = torch.cat(model.seen).double().transpose(0, 1).flatten(1)
    var, mean = torch.var_mean(pooled, 1, correction=0)
    torch.testing.assert_close(model.norm.running_mean, mean.float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.norm.running_var, var.float(), rtol=1e-5, atol=1e-6)
    # The means of the batches differ, so this is not the mean of their variances.
    of_batches = torch.stack([x.var((0, 2, 3), correction=0) for x in model.seen]).mean(0)
    assert (model.norm.running_var > of_batches + 0.1).all()


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize(('interval', 'val_interval'), [(2, 2), (1, 3), (3, 1)])
def test_a_checkpoint_holds_what_was_evaluated(tmp_path, by_epoch, interval, val_interval):
    runner = run(tmp_path, by_epoch=by_epoch, interval=interval, val_interval=val_interval)
    last = 3 if by_epoch else 7
    validated = [i for i in range(1, last + 1) if i % val_interval == 0 or i == last]
    batches = len(runner.model.evaluated) // len(validated)
    evaluated = dict(zip(validated, runner.model.evaluated[::batches]))
    assert len(evaluated) == len(runner.model.evaluated[::batches])
    prefix = 'epoch' if by_epoch else 'iter'
    common = [i for i in validated if i % interval == 0 or i == last]
    for i in common:
        state_dict = saved(tmp_path, f'{prefix}_{i}.pth')
        assert torch.equal(state_dict['norm.running_mean'], evaluated[i][0])
        assert torch.equal(state_dict['norm.running_var'], evaluated[i][1])
    different = {tuple(mean.tolist()) for mean, _ in evaluated.values()}
    assert len(different) == len(evaluated)


def test_also_without_checkpoint_and_validation_at_the_end(tmp_path):
    runner = run(tmp_path, by_epoch=False, interval=5, val_interval=4, save_last=False)
    assert len(runner.model.seen) == 3


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize('by_epoch', [True, False])
def test_nothing_else_notices(tmp_path, by_epoch, num_workers):
    kwargs = dict(by_epoch=by_epoch, num_workers=num_workers, val_interval=100, interval=1)
    outcomes = []
    for hook in (True, False):
        (tmp_path / str(hook)).mkdir()
        runner = run(tmp_path / str(hook), hook=hook, **kwargs)
        momenta = [state['momentum_buffer'] for state in
                   runner.optim_wrapper.optimizer.state_dict()['state'].values()]
        grads = [p.grad for p in runner.model.parameters() if p.grad is not None]
        outcomes.append((runner.model.state_dict(), momenta, grads, runner.model.order,
                         get_rng_state(), runner.model.training))
    with_hook, without = outcomes
    for key in ('norm.running_mean', 'norm.running_var'):
        assert not torch.equal(with_hook[0].pop(key), without[0].pop(key))
    assert with_hook[0]['norm.num_batches_tracked'] > 0
    torch.testing.assert_close(with_hook, without, rtol=0, atol=0)


def test_mixed_precision(tmp_path):
    model = run(tmp_path, wrapper='CPUAmpOptimWrapper').model
    pooled = torch.cat(model.seen).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model.norm.running_mean, pooled.mean(1))


def test_all_of_a_short_epoch(tmp_path):
    model = run(tmp_path, num_iters=200).model
    assert len(model.seen) == 6
    assert sorted(round(float(image.mean())) for x in model.seen for image in x) == [*range(12)]


def test_nothing_to_do(tmp_path):
    model = run(tmp_path, frozen=True).model
    assert not model.seen and torch.equal(model.norm.running_mean, torch.zeros(3))


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match='must be positive, got 0'):
        PreciseBNHook(0)
    runner = Runner(
        model=dict(type='Toy'), work_dir=str(tmp_path), experiment_name=f'ema_{tmp_path.name}',
        custom_hooks=[dict(type='PreciseBNHook'), dict(type='EMAHook')])
    hook, = (hook for hook in runner.hooks if isinstance(hook, PreciseBNHook))
    with pytest.raises(ValueError, match='PreciseBNHook and EMAHook cannot be used together'):
        hook.before_train(runner)
    runner._hooks = [hook]
    with pytest.raises(ValueError, match='sampler must be configs, not objects'):
        hook.before_train(runner)


SEVERAL = '''
import sys, torch
from torch import distributed, nn
from mmcontainer.engine.precise_bn import _Moments, _store

rank, file = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group('gloo', init_method=f'file://{file}', rank=rank, world_size=2)
inputs = torch.arange(2 * 3 * 4 * 2 * 5.).view(2, 3, 4, 2, 5).sin()  # rank, batch, image, channel
norm = nn.BatchNorm1d(2)
moments = _Moments(norm)
for x in inputs[rank]:
    norm(x)
if rank == 0:
    norm(torch.zeros(0, 2, 5))  # no region in this process
_store([moments])
values = torch.stack([inputs[:, :, :, c].flatten() for c in range(2)])
torch.testing.assert_close(norm.running_mean, values.mean(1))
torch.testing.assert_close(norm.running_var, values.var(1, correction=0))
distributed.barrier()
distributed.destroy_process_group()
'''


@pytest.mark.slow
def test_several_processes_pool_their_values(tmp_path):
    (tmp_path / 'several.py').write_text(SEVERAL)
    processes = [subprocess.Popen(
        [sys.executable, 'several.py', str(rank), str(tmp_path / 'group')], cwd=tmp_path,
        stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


def test_a_compiled_model():
    """Hooks added to the parts of a compiled module are not called by its compiled code."""
    model = Toy().train()
    model.compile(backend='eager')
    x = [torch.randn(3, 4, 4) for _ in range(4)]
    model(x, mode='loss')
    with _untouched(model):
        moments = _Moments(model.norm)
        model(x, mode='loss')
        moments.remove()
    assert moments.count == 1
