"""Training that diverges is stopped, and leaves the last good checkpoint."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset
from torch_versions import needs_torch
from two_processes import answers_of_two

from mmcontainer.engine.invalid_loss import StopWhenDivergedHook
from mmcontainer.errors import UserError


class Numbers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.ones(3)


class Model(BaseModel):
    """Its loss, or the gradient of it, is wrong from some iteration on."""

    def __init__(self, bad_loss=None, bad_gradient=None):
        super().__init__()
        self.layer, self.calls = nn.Linear(3, 2), 0
        self.bad_loss, self.bad_gradient = bad_loss, bad_gradient

    def forward(self, *rows, mode='tensor'):
        self.calls += 1
        out = self.layer(torch.stack(rows)).sin().mean()
        if self.calls == self.bad_gradient:
            out.register_hook(lambda gradient: gradient * torch.nan)
        if self.bad_loss and self.calls >= self.bad_loss:
            out = out * torch.inf
        return dict(loss_cls=out, loss_bbox=out.detach() * 0 + 1)


def train(tmp_path, model, hooks=(), **wrapper):
    Runner(
        model, str(tmp_path), experiment_name=f'{torch.rand(1).item()}',
        train_dataloader=dict(batch_size=2, dataset=Numbers(), sampler=dict(type='DefaultSampler')),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook', interval=1)),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), **wrapper),
        custom_hooks=[dict(type='StopWhenDivergedHook'), *hooks]).train()


@pytest.mark.parametrize('model, what', [
    (Model(bad_loss=3), 'iteration 3 .epoch 2.: loss is .*, loss_cls is .*inf'),
    (Model(bad_gradient=4), 'after iteration 4: 2 weights hold NaN or infinity, layer.weight')])
def test_nothing_bad_is_saved(tmp_path, model, what):
    with pytest.raises(UserError, match=f'{what}.*last good checkpoint is .*epoch_1.pth'):
        train(tmp_path, model)
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')


def test_bad_averages_are_not_saved(tmp_path):
    class Spoil(Hook):
        def after_train_epoch(self, runner):
            ema, = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
            ema.ema_model.module.layer.weight.data.fill_(torch.nan)

    with pytest.raises(UserError, match='1 weights hold NaN or infinity, module.layer.weight'):
        train(tmp_path, Model(), hooks=[dict(type='EMAHook'), Spoil()])
    assert not list(tmp_path.glob('*.pth'))


def test_nothing_was_saved_yet(tmp_path):
    with pytest.raises(UserError, match='No checkpoint was saved yet'):
        train(tmp_path, Model(bad_loss=1))


def test_good_training_is_left_alone(tmp_path):
    train(tmp_path, Model())
    assert len(list(tmp_path.glob('*.pth'))) == 3


@needs_torch('2.3.0', 'a scaler of losses on the CPU')
def test_the_search_for_a_scale_may_overflow():
    """With loss scaling a single overflow is a skipped step; twenty in a row are not."""
    class Wrapper:
        loss_scaler = torch.amp.GradScaler('cpu', enabled=True)

    class FakeRunner:
        optim_wrapper, iter, epoch, work_dir = Wrapper, 7, 0, 'not there'

    hook = StopWhenDivergedHook()
    bad, good = dict(loss=torch.tensor(torch.nan)), dict(loss=torch.tensor(1.))
    for outputs in [bad] * 20 + [good] + [bad] * 20:
        hook.after_train_iter(FakeRunner, 0, outputs=outputs)
    with pytest.raises(UserError, match='loss is nan'):
        hook.after_train_iter(FakeRunner, 0, outputs=bad)


def test_all_processes_stop_when_one_diverges(tmp_path):
    """Otherwise the others wait for it for ever, and the first one, which speaks, says nothing."""
    def work(rank):
        runner = SimpleNamespace(optim_wrapper=None, iter=7, epoch=0, work_dir='not there')
        hook = StopWhenDivergedHook()
        for value in (1., torch.nan if rank == 1 else 1.):
            try:
                hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(value)))
                yield 'fine'
            except UserError as error:
                yield str(error)

    first, second = answers_of_two(work, tmp_path, 2)
    assert first[0] == second[0] == 'fine'
    assert 'another process' in first[1] and 'loss is nan' in second[1]


def test_weights_that_are_no_tensors():
    StopWhenDivergedHook().before_save_checkpoint(SimpleNamespace(hooks=[]), dict(
        meta=dict(iter=1), state_dict={'layer._extra_state': dict(scale=1.), 'n': torch.ones(2)}))
