"""Configs and options as people write them, through what tools/train.py does before it trains."""
import argparse
import random
from pathlib import Path

from mmdet.registry import MODELS
from mmengine.registry import HOOKS, DefaultScope

from mmcontainer.cli.train import prepare_config
from mmcontainer.errors import as_user_error

from .annotations import CLASSES, DataSet
from .harness import Case

CONFIG = """
_base_ = 'mmcontainer::retinanet/container_light_fpn_1x_coco.py'
model = dict(
    backbone=dict(
        type='Container', init_cfg=None,
        arch=dict(_delete_=True, embed_dims=(8, 8, 8, 8), depths=(1, 1, 1, 1),
                  mlp_ratios=(1, 1, 1, 1), patch_sizes=(4, 2, 2, 2),
                  num_heads=(None, None, None, 2), static=dict(kind='depthwise', kernel_size=3))),
    neck=dict(in_channels=[8, 8, 8, 8], out_channels=16),
    bbox_head=dict(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1))
data_root = {root!r}
dataset = dict(data_root=data_root, metainfo=dict(classes={classes!r}))
train_dataloader = dict(dataset=dict(
    ann_file='train.json', data_prefix=dict(img='train/'), **dataset))
val_dataloader = dict(dataset=dict(
    ann_file='val.json', data_prefix=dict(img='val/'), **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/val.json')
test_evaluator = val_evaluator
"""
# Keys that have an effect, with a function that draws a value of theirs.
VALUES = {
    'train_cfg.max_epochs': lambda rng: rng.randint(12, 30),
    'train_cfg.val_interval': lambda rng: rng.randint(1, 5),
    'optim_wrapper.optimizer.lr': lambda rng: 10 ** rng.uniform(-5, -2),
    'optim_wrapper.optimizer.weight_decay': lambda rng: rng.uniform(0, 0.1),
    'optim_wrapper.accumulative_counts': lambda rng: rng.randint(1, 8),
    'train_dataloader.batch_size': lambda rng: rng.randint(1, 16),
    'train_dataloader.num_workers': lambda rng: rng.randint(1, 4),
    'default_hooks.checkpoint.interval': lambda rng: rng.randint(1, 4),
    'default_hooks.checkpoint.max_keep_ckpts': lambda rng: rng.randint(1, 4),
    'default_hooks.logger.interval': lambda rng: rng.randint(1, 100),
    'model.backbone.drop_path_rate': lambda rng: rng.uniform(0, 0.9),
    'model.backbone.frozen_stages': lambda rng: rng.randint(-1, 4),
    'model.backbone.norm_eval': lambda rng: rng.random() < 0.5,
    'randomness.seed': lambda rng: rng.randrange(1000),
}
# (key, value) that can only be a mistake.
WRONG = [
    ('train_cfg.max_epochs', 0), ('train_cfg.max_epochs', -1), ('train_cfg.val_interval', 0),
    ('default_hooks.checkpoint.interval', 0), ('train_dataloader.batch_size', 0),
    ('default_hooks.logger.interval', 0), ('model.backbone.drop_path_rate', 1.0),
    ('model.backbone.drop_path_rate', -0.1), ('model.backbone.drop_path_rate', float('nan')),
    ('model.backbone.frozen_stages', 7), ('model.backbone.in_channels', 0),
    ('model.backbone.arch.embed_dims', (8, 8)), ('model.backbone.arch.num_heads', (1, 2, 3, 5)),
    ('model.backbone.norm_cfg', 'BN'), ('model.bbox_head.num_classes', 80),
    ('default_scope', 'mmdett'),
]
# Text at the end of a config that spoils it, and a word that has to be in the message.
TEXTS = [
    ("optimizer = dict(type='SGD', lr=0.01)", 'optimizer'),
    ('data = dict(samples_per_gpu=2, workers_per_gpu=2)', 'data'),
    ("lr_config = dict(policy='step', step=[8, 11])", 'lr_config'),
    ("runner = dict(type='EpochBasedRunner', max_epochs=12)", 'runner'),
    ('fp16 = dict(loss_scale=512.)', 'fp16'),
    ("evaluation = dict(interval=1, metric='bbox')", 'evaluation'),
    ('x = undefined + 1', 'undefined'),
    ('train_cfg = dict(max_epochs=3', 'mine.py'),
    ('x = [1][5]', 'mine.py'),
    ("custom_imports = dict(imports=['not_there'], allow_failed_imports=True)", 'not_there'),
    ("model['backbone']['type'] = 'ContainerLite'", 'ContainerLite'),
    ("custom_hooks = [dict(type='RNGStateHok')]", 'RNGStateHok'),
]


def _misspell(key: str, rng: random.Random) -> str:
    """Change one letter of the last part of a key."""
    head, _, tail = key.rpartition('.')
    at = rng.randrange(1, len(tail))
    return f'{head}.' + rng.choice((
        tail[:at] + tail[at + 1:], tail[:at] + tail[at] + tail[at:], tail[:at] + 'x' + tail[at:]))


def _draw(rng: random.Random) -> tuple[str, str, dict, str]:
    """Expectation, text at the end of the config, options, and a word for the message."""
    form = rng.choice(('right', 'right', 'wrong', 'unknown', 'spoilt'))
    if form == 'right':
        keys = rng.sample(list(VALUES), k=rng.randint(1, 3))
        return 'accept', '', {key: VALUES[key](rng) for key in keys}, ''
    if form == 'spoilt':
        text, word = rng.choice(TEXTS)
        return 'refuse', text, {}, word
    key, value = rng.choice(WRONG)
    if form == 'unknown':
        right = rng.choice(list(VALUES))
        key, value = _misspell(right, rng), VALUES[right](rng)
    return 'refuse', '', {key: value}, key.rpartition('.')[2]


def generate(rng: random.Random, folder: Path) -> Case:
    """A config of a user on good data, with options that are right or wrong."""
    data = DataSet(rng, folder)
    data.write()
    expected, text, options, word = _draw(rng)
    path = folder / 'mine.py'
    path.write_text(CONFIG.format(root=str(folder), classes=CLASSES) + text)
    args = argparse.Namespace(
        config=str(path), cfg_options=options, work_dir=str(folder / 'work'), data_root=None,
        from_scratch=False, amp=None, auto_scale_lr=False, resume=None, compile=False,
        overwrite=False, allow_partial_load=False,
        launcher='none')

    def act() -> None:
        cfg = prepare_config(args)
        with DefaultScope.overwrite_default_scope(cfg.default_scope), as_user_error():
            model = MODELS.build(cfg.model)
            for hook in cfg.get('custom_hooks', []):
                HOOKS.build(hook)
        for key, value in options.items():
            found = cfg
            for part in key.split('.'):
                found = found[part]
            assert found == value, f'{key} is {found}, not {value}'
        assert model.bbox_head.num_classes == 3

    def unchanged() -> None:
        assert not list(folder.glob('work/*.pth'))

    return Case(f'{expected}: {options or text}', expected, act, names=(word, ),
                unchanged=unchanged)
