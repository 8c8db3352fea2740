"""A training is compared with a published one, at its points and by its statistic."""
import logging
import secrets
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset
from two_processes import answers_of_two

from mmcontainer.checkpoints.files import load_file
from mmcontainer.engine import on_track
from mmcontainer.engine.on_track import OnTrackHook
from mmcontainer.errors import ConfigError
from mmcontainer.paper import curves
from mmcontainer.paper.curves import PublishedRun

# Points 20 and 39 are close to each other; 59 is the last iteration.
BY_ITERATION = PublishedRun(
    'by/iteration', 'a test', False, loss={20: 1.25, 39: 1.125, 59: 1.0625},
    evaluations={60: {'bbox': (31.25, 50.), 'segm': (28., )}}, images=16, within=10, every=4)
BY_EPOCH = PublishedRun(
    'by/epoch', 'a test', True, loss={1: 8., 2: 7.}, evaluations={2: {'bbox': (24.7, )}})
LOSSES = np.exp(np.random.RandomState(0).randn(60 * 8))  # skewed: mean and median differ


class Images(Dataset):
    def __init__(self, ann_file='data/annotations/instances_train2017.json', number=117_266):
        self.ann_file, self.number = ann_file, number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return torch.ones(())


class Model(BaseModel):
    """Iteration i has the loss ``LOSSES[i]``, also after a resume."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer('trained', torch.zeros((), dtype=torch.long))

    def forward(self, *rows, mode='tensor'):
        if mode != 'loss':
            return [0]
        self.trained += 1
        return dict(loss=self.weight * 0 + LOSSES[self.trained - 1])


class AP(BaseMetric):
    default_prefix = 'coco'

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(bbox_mAP=0.3, segm_mAP=0.27)


class Interrupt(Hook):
    priority = 'LOWEST'

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.at:
            raise KeyboardInterrupt


class Lines(logging.Handler):
    def __init__(self):
        super().__init__(logging.INFO)
        self.seen = []

    def emit(self, record):
        self.seen.append(record.getMessage())


@pytest.fixture(autouse=True)
def published(monkeypatch):
    runs = {run.name: run for run in (BY_ITERATION, BY_EPOCH)}
    monkeypatch.setattr(curves, 'load_curves', lambda: runs)


@pytest.fixture
def without_pictures(monkeypatch):
    """They take most of the time."""
    monkeypatch.setattr(OnTrackHook, '_draw', lambda self, runner: None)


def train(work_dir, batch=16, accumulated=1, hooks=(), run='by/iteration', dataset=None, every=24,
          **options):
    """Train 60 iterations of 16 images, or two epochs, and return the lines of the hook."""
    by_epoch = run == 'by/epoch'
    optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.), accumulative_counts=accumulated)
    runner = Runner(
        Model(), str(work_dir), experiment_name=secrets.token_hex(4),
        cfg=Config(dict(optim_wrapper=optim_wrapper)), optim_wrapper=optim_wrapper,
        train_dataloader=dict(
            batch_size=batch, dataset=dataset or Images(),
            sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1) if by_epoch else
        dict(by_epoch=False, max_iters=60 * 16 // batch, val_interval=30 * 16 // batch),
        val_dataloader=dict(dataset=Images(number=4), batch_size=4,
                            sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(), val_evaluator=Evaluator(AP()), log_processor=dict(by_epoch=by_epoch),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=max(1, 32 // batch)),
            checkpoint=dict(type='CheckpointHook', interval=every, by_epoch=by_epoch)),
        custom_hooks=[dict(type='OnTrackHook', run=run), *hooks], **options)
    lines = Lines()
    runner.logger.addHandler(lines)
    try:
        runner.train()
    except KeyboardInterrupt:
        pass
    return runner, [line for line in lines.seen if 'the published run' in line]


def hook_after(iterations):
    """A hook that compares, and what it sees of a runner in the middle of a training."""
    hook = OnTrackHook('by/iteration')
    hook._compares, hook._images = True, 16
    hub = MessageHub.get_instance(secrets.token_hex(4))
    return hook, SimpleNamespace(iter=iterations, message_hub=hub)


def expected_loss(point, per_iteration=1):
    """detectron2 logs the median of every 4 iterations; the median of these near a point."""
    losses = LOSSES.reshape(-1, per_iteration).mean(1)
    return np.median([np.median(losses[i - 3:i + 1]) for i in range(3, 60, 4)
                      if abs(i - point) <= 10])


def expected_lines(per_iteration=1):
    here = [f' ({point * per_iteration} of this run)' if per_iteration > 1 else ''
            for point in (20, 39, 59)]
    losses = [expected_loss(point, per_iteration) for point in (20, 39, 59)]
    return [f'iteration 20{here[0]}: loss {losses[0]:.3f}, the published run had 1.250',
            f'iteration 39{here[1]}: loss {losses[1]:.3f}, the published run had 1.125',
            'iteration 60: AP 30.0, the published run had 31.2; mask AP 27.0, the published run '
            'had 28.0',
            f'iteration 59{here[2]}: loss {losses[2]:.3f}, the published run had 1.062']


def test_lines_at_the_published_points(tmp_path):
    runner, (first, *lines) = train(tmp_path)
    assert first == ('Compared with the published run by/iteration (a test) at iteration 20, 39, '
                     '59, 60.')
    assert lines == expected_lines()
    picture = tmp_path / runner.timestamp / 'vis_data' / 'on_track.png'
    assert picture.read_bytes()[:4] == b'\x89PNG'
    assert len(list(picture.parent.glob('*.png'))) == 1 and not list(picture.parent.glob('.*'))


def test_a_loss_is_reported_once_its_last_iteration_is_there():
    hook, runner = hook_after(0)
    said = []
    hook._report = lambda runner, text: said.append((runner.iter, text))
    for runner.iter in range(32):
        runner.message_hub.update_scalar('train/loss', runner.iter)
        hook.after_train_iter(runner, 0)
    # 11, 15, ... 27 are logged within 10 of 20, with the medians 9.5, 13.5, ... 25.5.
    assert said == [(30, 'iteration 20: loss 17.500, the published run had 1.250')]


@pytest.mark.usefixtures('without_pictures')
@pytest.mark.parametrize('accumulated', [8, 4])
def test_accumulated_gradients(tmp_path, accumulated):
    """8 iterations of 2 images are one of 16, in one step of the optimizer or in several."""
    _, (first, *lines) = train(tmp_path, batch=2, accumulated=accumulated, every=1000)
    assert lines == expected_lines(per_iteration=8)
    assert 'have 16 images, those of this run 2: 8 here are one there.' in first
    assert ('A step of the optimizer has 8 images instead of 16' in first) == (accumulated == 4)


@pytest.mark.usefixtures('without_pictures')
@pytest.mark.parametrize(('batch', 'every', 'stop'), [
    (16, 25, 26),  # within 10 of 20
    (16, 31, 40),  # just after the line of 20
    (2, 203, 215)])  # in the middle of an iteration of 16 images
def test_a_resumed_training_says_what_an_unbroken_one_says(tmp_path, batch, every, stop):
    _, unbroken = train(tmp_path / 'a', batch, every=1000)
    _, before = train(tmp_path / 'b', batch, every=every, hooks=[Interrupt(stop)])
    _, after = train(tmp_path / 'b', batch, every=every, resume=True,
                     load_from=str(tmp_path / 'b' / f'iter_{every}.pth'))
    # Lines between the checkpoint and the interruption are said again.
    assert [before[0], *dict.fromkeys([*before[1:], *after[1:]])] == unbroken
    assert after[0] == unbroken[0] and len(unbroken) == 5


@pytest.mark.usefixtures('without_pictures')
def test_losses_that_a_checkpoint_does_not_hold_are_not_guessed(tmp_path):
    train(tmp_path, every=25, hooks=[Interrupt(26)])
    path = tmp_path / 'iter_25.pth'
    checkpoint = load_file(path)
    del checkpoint['message_hub']['log_scalars']['train/loss']
    torch.save(checkpoint, path)
    _, lines = train(tmp_path, resume=True, load_from=str(path))
    assert lines[1] == ('iteration 20: the published run had a loss of 1.250; this one was resumed '
                        'from a checkpoint that does not hold the losses of the iterations before')
    assert lines[3] == expected_lines()[2] and lines[4] == expected_lines()[3]


@pytest.mark.usefixtures('without_pictures')
@pytest.mark.parametrize('dataset', [
    Images('data/annotations/train.json'), Images(number=12), Images('')])
def test_other_data_is_not_compared_and_said_once(tmp_path, dataset):
    _, lines = train(tmp_path, dataset=dataset)
    assert len(lines) == 1 and lines[0].startswith(
        'Not compared with the published run by/iteration: it was trained on COCO train2017')


def test_epochs(tmp_path, monkeypatch):
    monkeypatch.setattr(on_track, '_COCO_IMAGES', (12, 12))
    runner, lines = train(tmp_path, batch=3, run='by/epoch', dataset=Images(number=12))
    assert lines == [
        'Compared with the published run by/epoch (a test) at epoch 1, 2.',
        f'epoch 1: loss {LOSSES[:4].mean():.2f}, the published run had 8.00',
        f'epoch 2: loss {LOSSES[4:8].mean():.2f}, the published run had 7.00',
        'epoch 2: AP 30.0, the published run had 24.7']
    assert (tmp_path / runner.timestamp / 'vis_data' / 'on_track.png').is_file()


def test_epochs_mean_nothing_where_iterations_are_counted():
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=Images()), train_loop=None)
    assert 'counts iterations' in OnTrackHook('by/epoch')._why_not(runner)


def test_a_loss_that_overflowed_is_left_out():
    hook, runner = hook_after(31)
    for loss in [1., 2., 3., float('nan')] * 8:
        runner.message_hub.update_scalar('train/loss', loss)
    assert hook._loss_near(runner, 20, 32) == 2.


def test_training_goes_on_without_a_picture(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logging.Logger, 'error', lambda self, text: said.append(text))
    _, lines = train(tmp_path, hooks=[Spoil()])
    assert lines[1:] == expected_lines()
    assert len(said) == 4 and 'on_track.png was not drawn: ValueError' in said[0]


class Spoil(Hook):
    """Writes nonsense into the log that is drawn."""

    def before_train(self, runner):
        with open(f'{runner.log_dir}/vis_data/scalars.json', 'w') as file:
            file.write('nonsense\n')


def test_unknown_run():
    with pytest.raises(ConfigError, match='by/epoch'):
        OnTrackHook('by/epochs')


def test_losses_are_those_of_all_processes(tmp_path):
    def work(rank):
        _, runner = hook_after(2)
        for loss in (9., 2. + 4. * rank):
            runner.message_hub.update_scalar('train/loss', loss)
        yield on_track.last_losses(runner, 1)

    assert answers_of_two(work, tmp_path, 1) == [[[4.]], [[4.]]]
