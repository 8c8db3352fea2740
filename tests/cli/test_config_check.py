"""Settings that MMEngine would ignore, or that would fail late."""
import pytest

from mmcontainer.cli.configs import load_config
from mmcontainer.errors import UserError

BASE = """
default_scope = 'mmdet'
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12)
train_dataloader = dict(batch_size=2, num_workers=2, persistent_workers=True)
val_dataloader = dict(batch_size=1, num_workers=2, persistent_workers=True)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1),
                     logger=dict(type='LoggerHook', interval=50))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.0001))
"""


@pytest.fixture
def load(tmp_path):
    """Return a function that reads a config of a text, after ordinary settings."""

    def run(text, options=None):
        path = tmp_path / 'mine.py'
        path.write_text(BASE + text)
        return load_config(str(path), options)

    return run


@pytest.mark.parametrize('text, now', [
    ("optimizer = dict(type='SGD', lr=0.01)", 'optim_wrapper'),
    ('optimizer_config = dict(grad_clip=None)', 'clip_grad'),
    ('data = dict(samples_per_gpu=2, workers_per_gpu=2)', 'train_dataloader'),
    ("data = dict(train=dict(ann_file='a.json'))", 'train_dataloader'),
    ("lr_config = dict(policy='step', step=[8, 11])", 'param_scheduler'),
    ("runner = dict(type='EpochBasedRunner', max_epochs=12)", 'train_cfg'),
    ('total_epochs = 12  # = total_epochs,', 'max_epochs'),
    ('fp16 = dict(loss_scale=512.)', 'AmpOptimWrapper'),
    ("evaluation = dict(interval=1, metric='bbox')", 'val_evaluator'),
    ('checkpoint_config = dict(interval=1)', 'default_hooks'),
    ("log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook')])", 'visualizer'),
    ("resume_from = 'a.pth'", '--resume'),
    ('seed = 3', 'randomness'),
])
def test_keys_of_mmdetection_2(load, text, now):
    with pytest.raises(UserError, match=f'(?s)mine.py sets keys of MMDetection 2.*{now}') as caught:
        load(text)
    assert f'\n  {text.partition(" ")[0]}: ' in str(caught.value)


@pytest.mark.parametrize('text', [
    "data = '/home/me/cells/'\ntrain_dataloader = dict(dataset=dict(data_root=data))",
    'data = dict(train=3, val=4)',
    "optimizer = dict(type='SGD', lr=0.01)\n"
    'optim_wrapper = dict(optimizer=optimizer)',
    'seed = 3\nrandomness = dict(seed=seed)',
    'fp16 = True',
    'data = dict(samples_per_gpu=2)\ndata = None',
])
def test_variables_of_the_user_may_have_such_names(load, text):
    load(text, {'optim_wrapper.optimizer.lr': 0.5})


@pytest.mark.parametrize('key, value', [
    ('train_cfg.max_epochs', 0), ('train_cfg.max_epochs', -1), ('train_cfg.max_epochs', 2.5),
    ('train_cfg.max_epochs', '3'), ('train_cfg.max_epochs', float('nan')),
    ('train_cfg.max_epochs', True), ('train_cfg.val_interval', 0),
    ('train_dataloader.batch_size', 0), ('val_dataloader.batch_size', -1),
    ('train_dataloader.num_workers', -1), ('default_hooks.checkpoint.interval', 0),
    ('default_hooks.checkpoint.max_keep_ckpts', 0), ('default_hooks.logger.interval', 0),
    ('optim_wrapper.accumulative_counts', 0), ('optim_wrapper.optimizer.lr', -1.),
    ('optim_wrapper.optimizer.lr', 'fast'), ('optim_wrapper.optimizer.weight_decay', float('inf')),
    ('default_scope', 'mmdett'),
])
def test_values_that_cannot_be_meant(load, key, value):
    with pytest.raises(UserError, match=f'mine.py[^\n]*\n  {key} is {value!r}; .* expected'):
        load('', {key: value})


def test_all_wrong_values_are_said_at_once(load):
    with pytest.raises(UserError, match="(?s)default_scope.*Did you mean 'mmdet'.*max_epochs"):
        load("default_scope = 'mmdett'\ntrain_cfg = dict(max_epochs=0)")


def test_unusual_values_that_make_sense(load):
    load("default_scope = 'mmengine'", {
        'train_cfg.max_epochs': 3., 'default_hooks.checkpoint.interval': -1,
        'default_hooks.checkpoint.max_keep_ckpts': -1, 'optim_wrapper.optimizer.lr': 0})


def test_iterations(load):
    text = "train_cfg = dict(type='IterBasedTrainLoop', max_iters={}, val_interval=5)"
    load(text.format(10))
    with pytest.raises(UserError, match='train_cfg.max_iters is 0'):
        load(text.format(0))


def test_no_workers(load, capsys):
    cfg = load('train_dataloader.update(prefetch_factor=4)', {'train_dataloader.num_workers': 0})
    assert not {'prefetch_factor', 'persistent_workers'} & set(cfg.train_dataloader)
    assert 'persistent_workers' in cfg.val_dataloader  # which has workers
    printed = capsys.readouterr().out
    assert 'train_dataloader.num_workers=0: persistent_workers, prefetch_factor' in printed
