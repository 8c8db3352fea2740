"""The console shows what is meant for people, and the log file has everything."""
import builtins
import importlib
import itertools
import logging
import re
import types
import warnings

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn

from mmcontainer.cli import console
from mmcontainer.cli.console import HARMLESS, build_runner, quiet_libraries
from mmcontainer.engine.summary import SummaryHook

numbers = itertools.count()


@pytest.fixture
def restored(monkeypatch):
    """Let a test call ``quiet_libraries`` and undo it afterwards."""
    for module in [console.mmengine_logger, *map(importlib.import_module, console._PRINTING)]:
        monkeypatch.setattr(module, 'print', builtins.print, raising=False)
    with warnings.catch_warnings():
        yield


def make_logger(tmp_path):
    """A logger with a file, as the runner has it, with our console."""
    logger = MMLogger(f'console{next(numbers)}', log_file=str(tmp_path / 'a.log'))
    console._tidy_console(logger)
    return logger


def say_from(module, function, call, *arguments):
    """Call ``call`` inside of a function of a module of that name."""
    space = types.ModuleType(module).__dict__
    exec(f'def {function}(call, *arguments):\n    call(*arguments)', space)
    space[function](call, *arguments)


SHOWN = [
    ('mmengine.hooks.logger_hook', 'after_train_iter', 'Epoch(train) [1][1/6]  lr: 1e-4'),
    ('mmengine.hooks.logger_hook', 'after_test_iter', 'Iter(test) [ 1/16]  eta: 0:00:01'),
    ('mmengine.hooks.checkpoint_hook', '_save_checkpoint', 'Saving checkpoint at 1 epochs'),
    ('mmdet.evaluation.metrics.coco_metric', 'compute_metrics', '\n+----+\n| mAP |'),
    ('mmengine.runner.runner', 'resume', 'resumed epoch: 3, iter: 18'),
    ('mmcontainer.cli.weights', 'load', 'Load checkpoint from a.pth'),
    ('my_hooks', 'before_train', 'of somebody else'),
]
HIDDEN = [
    ('mmengine.runner.runner', '_log_env', 'Config:\na = 1'),
    ('mmengine.hooks.logger_hook', 'after_train_iter', 'Exp name: a'),
    ('mmengine.hooks.logger_hook', 'after_val_epoch', 'Epoch(val) [1][4/4]  coco/bbox_mAP: 0.1'),
    ('mmdet.evaluation.metrics.coco_metric', 'compute_metrics', 'Evaluating bbox...'),
]


@pytest.mark.parametrize('module, function, text', SHOWN + HIDDEN)
@pytest.mark.parametrize('how', ['log', 'print_log'])
def test_lines_for_people(module, function, text, how, tmp_path, capsys):
    logger = make_logger(tmp_path)
    if how == 'log':
        say_from(module, function, logger.info, text)
    else:
        say_from(module, function, print_log, text, logger)
    assert (text in capsys.readouterr().out) == ((module, function, text) in SHOWN)
    assert text in (tmp_path / 'a.log').read_text()


def test_warnings_and_errors_of_libraries(tmp_path, capsys):
    logger = make_logger(tmp_path)
    harmless = '"FileClient" will be deprecated in future.'
    for level, text in [(logging.WARNING, harmless), (logging.WARNING, 'something is odd'),
                        (logging.ERROR, 'the file is gone')]:
        say_from('mmengine.runner.runner', 'train', logger.log, level, text)
    out = capsys.readouterr().out
    assert re.fullmatch(r'[\d:]{8}  warning: something is odd\n[\d:]{8}  error: the file is gone\n',
                        out)
    assert harmless in (tmp_path / 'a.log').read_text()


def test_python_warnings(restored):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        quiet_libraries()
        for text in ('faster_coco_eval is not installed, metrics will not be computed.',
                     'Grad strides do not match bucket view strides. This may indicate',
                     'the learning rate is odd'):
            warnings.warn(text, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ['the learning rate is odd']
    assert all(len(reason) > 10 for _, reason in HARMLESS)


def test_the_first_process_warns_for_all(restored, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        quiet_libraries()
        warnings.warn('the learning rate is odd', stacklevel=2)
    assert not seen


def test_prints_of_libraries(restored, tmp_path, capsys, monkeypatch):
    """Those of pycocotools go to the log, a harmless one is left out, all others are seen."""
    from pycocotools.coco import COCO
    monkeypatch.setattr(MMLogger, '_instance_dict', {})
    quiet_libraries()
    COCO().createIndex()
    assert 'index created!' in capsys.readouterr().out  # no log yet
    logger = MMLogger.get_instance('prints', log_file=str(tmp_path / 'a.log'))
    console._tidy_console(logger)
    COCO().createIndex()
    print_log('Could not import OneDL. Skipping OneDL datasets.')
    print_log('Could not import torch.')
    print('of a user')
    assert capsys.readouterr().out == 'Could not import torch.\nof a user\n'
    assert 'index created!' in (tmp_path / 'a.log').read_text()


class Numbers:
    """Six numbers in two classes."""
    metainfo = dict(classes=('odd', 'even'))
    ann_file = 'numbers.json'

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.tensor([float(index)])

    def get_cat_ids(self, index):
        return [index % 2] * 2


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Linear(1, 1)

    def forward(self, *inputs, mode='tensor'):
        out = self.weight(torch.stack(inputs))
        return dict(loss=out.square().mean()) if mode == 'loss' else list(out)


class Score(BaseMetric):
    default_prefix = 'score'

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(mean=0.25, count=len(results))


@pytest.fixture
def toy_config(tmp_path):
    """Return a function that writes a config of a training of milliseconds."""
    for registry, kind in ((MODELS, Line), (DATASETS, Numbers), (METRICS, Score)):
        registry.register_module(module=kind, force=True)

    def make(train_cfg, **changes):
        loader = dict(batch_size=2, num_workers=0, dataset=dict(type='Numbers'),
                      sampler=dict(type='DefaultSampler', shuffle=False))
        return Config(dict(
            model=dict(type='Line'), work_dir=str(tmp_path), experiment_name=f'x{next(numbers)}',
            train_dataloader=loader, val_dataloader=loader, test_dataloader=loader,
            val_evaluator=dict(type='Score'), test_evaluator=dict(type='Score'), val_cfg=dict(),
            test_cfg=dict(), train_cfg=train_cfg,
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01), accumulative_counts=3),
            param_scheduler=[dict(type='LinearLR', start_factor=0.5, by_epoch=False, end=2)],
            default_hooks=dict(logger=dict(type='LoggerHook', interval=4)), **changes))

    return make


@pytest.mark.parametrize('train_cfg, length, after', [
    (dict(by_epoch=True, max_epochs=2), '2 epochs of 3 iterations', 'epoch 2'),
    (dict(by_epoch=False, max_iters=5, val_interval=5), '5 iterations', 'iteration 5')])
def test_a_run(toy_config, train_cfg, length, after, restored, capsys):
    log = dict(log_processor=dict(by_epoch=train_cfg['by_epoch']))
    runner = build_runner(toy_config(train_cfg, **log))
    runner.train()
    out = capsys.readouterr().out
    for line in ('model       Line', 'parameters  2, all trained',
                 'training    6 images, 12 objects', 'classes     2 (odd 6, even 6)',
                 '2 images x 1 process x 3 accumulated = 6 images',
                 'lr          0.01, SGD; LinearLR (iterations 0 to 2)', f'length      {length}',
                 'The first iteration took', f'Validation after {after}: 6 images'):
        assert line in out, line
    assert re.search(r' +mean +count\n  score +0.250 +6', out)
    assert out.index('Training') < 20 and 'Hooks will be' not in out
    runner.test()
    assert re.search(r'Test: 6 images in 0:00:0\d\n +mean +count\n', capsys.readouterr().out)


def test_verbose(toy_config, capsys):
    runner = build_runner(toy_config(dict(by_epoch=True, max_epochs=1)), verbose=True)
    assert 'System environment' in capsys.readouterr().out
    assert not any(isinstance(hook, SummaryHook) for hook in runner.hooks)
