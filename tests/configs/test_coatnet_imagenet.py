"""CoAtNet's own ImageNet recipe has the values that the paper publishes.

What is expected stands in official_coatnet.yaml, with its source; what the paper leaves open is in
the table of docs/coatnet.md, whose options are applied here. The config in DeiT's recipe is tested
with those of Container.
"""
import functools
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from built import build_empty, decays_of
from learning_rates import stepped_rates
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from mmcontainer.cli.configs import load_config
from mmcontainer.paper import load_tables

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'configs' / 'imagenet'
OFFICIAL = yaml.safe_load(Path(__file__).with_name('official_coatnet.yaml').read_text())
GPUS, IMAGES = 32, 128
TRAIN_IMAGES = 1281167  # of ImageNet

each_model = pytest.mark.parametrize('name', OFFICIAL['stochastic_depth'])


@functools.cache
def _read(name):
    return Config.fromfile(FOLDER / f'{name}_{GPUS}xb{IMAGES}_in1k.py')


def _load(name):
    cfg = _read(name).copy()
    cfg.model.data_preprocessor = cfg.data_preprocessor  # as the runner does
    return cfg


def test_every_config_is_of_a_published_model():
    found = {path.stem for path in FOLDER.glob('coatnet*') if '_8xb128' not in path.stem}
    assert found == {f'{name}_{GPUS}xb{IMAGES}_in1k' for name in OFFICIAL['stochastic_depth']}


@each_model
def test_recipe(name):
    cfg = _load(name)
    assert cfg.default_scope == 'mmpretrain' and 'mmcontainer' in cfg.custom_imports.imports
    assert cfg.optim_wrapper.optimizer == dict(
        type=OFFICIAL['optimizer'], lr=OFFICIAL['lr'], weight_decay=OFFICIAL['weight_decay'])
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=OFFICIAL['clip'])
    assert cfg.train_cfg == dict(by_epoch=True, max_epochs=OFFICIAL['epochs'], val_interval=1)
    assert GPUS * cfg.train_dataloader.batch_size == OFFICIAL['batch']
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=OFFICIAL['batch'])
    assert OFFICIAL['ema'] is None
    assert [hook.type for hook in cfg.custom_hooks] == ['RNGStateHook', 'DeployHook']
    assert 'Pretrained' not in cfg.pretty_text and cfg.load_from is None


@each_model
def test_data(name):
    cfg = _load(name)
    train, val = cfg.train_dataloader, cfg.val_dataloader
    assert train.sampler.type == 'DefaultSampler' and train.sampler.shuffle
    assert cfg.test_dataloader == val
    load, crop, flip, augment, pack = train.dataset.pipeline
    assert [step.type for step in (load, crop, flip, pack)] == [
        'LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'PackInputs']
    assert [augment.num_policies, augment.magnitude_level] == OFFICIAL['randaugment']
    assert augment.get('magnitude_std', 0) == 0
    assert {policy.prob for policy in augment.policies} == {1}
    assert crop.scale == OFFICIAL['image_size'] and OFFICIAL['center_crop']
    assert val.dataset.pipeline[2].crop_size == OFFICIAL['image_size']
    assert [step.type for step in val.dataset.pipeline[1:3]] == ['ResizeEdge', 'CenterCrop']
    assert cfg.model.train_cfg.augments == [dict(type='Mixup', alpha=OFFICIAL['mixup'])]


def test_operations_are_those_of_cotnet():
    """Their ranges are tested there: at magnitude 15 they are TensorFlow's, too."""
    other = Config.fromfile(FOLDER / 'cotnet_50_8xb80_in1k.py').train_dataloader.dataset.pipeline[3]
    augment = _load('coatnet_0').train_dataloader.dataset.pipeline[3]
    assert augment.total_level == other.total_level
    assert augment.policies == [dict(policy, prob=1.) for policy in other.policies]


def test_learning_rate_of_every_iteration(tmp_path):
    """From the table: 10 000 iterations of warm-up, then a cosine, in float64."""
    iterations = TRAIN_IMAGES // OFFICIAL['batch']
    rates = stepped_rates(_load('coatnet_0'), tmp_path, iterations)
    warmup, steps = OFFICIAL['warmup_iterations'], iterations * OFFICIAL['epochs']
    assert rates.shape == (steps, )
    assert np.allclose(rates[:warmup], OFFICIAL['lr'] * np.arange(1, warmup + 1) / warmup)
    assert OFFICIAL['schedule'] == 'cosine'
    turn = np.cos(np.pi * np.arange(steps - warmup) / (steps - warmup))
    expected = OFFICIAL['min_lr'] + (OFFICIAL['lr'] - OFFICIAL['min_lr']) * (1 + turn) / 2
    assert np.allclose(rates[warmup:], expected, rtol=1e-6)
    for name in OFFICIAL['stochastic_depth']:
        assert _load(name).param_scheduler == _load('coatnet_0').param_scheduler


@each_model
def test_model(name):
    cfg = _load(name)
    model = build_empty(cfg)
    assert cfg.model.backbone.arch == name.replace('_', '-')
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert max(rates) == pytest.approx(OFFICIAL['stochastic_depth'][name])
    assert rates == sorted(rates)
    loss = model.head.loss_module
    assert OFFICIAL['loss'] == 'softmax' and type(loss).__name__ == 'LabelSmoothLoss'
    assert (loss.label_smooth_val, loss.mode) == (OFFICIAL['label_smoothing'], 'original')
    published = load_tables()['classification'][name]['params']
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert parameters == pytest.approx(published, rel=0.02)


@each_model
def test_weight_decay_of_every_parameter(name):
    cfg = _load(name)
    model = build_empty(cfg)
    assert decays_of(model, cfg.optim_wrapper) == {
        key: 0. if parameter.ndim == 1 or key.endswith('.bias') else OFFICIAL['weight_decay']
        for key, parameter in model.named_parameters()}


def test_pipeline(tmp_path):
    import mmcv
    cfg = _load('coatnet_0')
    init_default_scope(cfg.default_scope)
    mmcv.imwrite(np.full((300, 400, 3), 99, np.uint8), str(tmp_path / 'x.png'))
    packed = Compose(cfg.train_dataloader.dataset.pipeline)(
        dict(img_path=str(tmp_path / 'x.png'), gt_label=7))
    assert packed['inputs'].shape == (3, 224, 224) and packed['data_samples'].gt_label == 7


def _options():
    """Every option of the table of open choices, as (name, value)."""
    text = (ROOT / 'docs' / 'coatnet.md').read_text().split('## What the paper leaves open')[1]
    return re.findall(r'`([\w.]+)=([\w.]+)`', text.split('\n## ')[0])


@pytest.mark.parametrize(('option', 'value'), _options())
def test_option_does_what_the_table_says(option, value):
    cfg = load_config(f'mmcontainer::imagenet/coatnet_0_{GPUS}xb{IMAGES}_in1k.py', {option: value})
    if option == 'optim_wrapper.type':
        assert cfg.optim_wrapper.type == value == 'AmpOptimWrapper'
        return
    assert (option, value) == ('optim_wrapper.paramwise_cfg.norm_decay_mult', '1.')
    cfg.optim_wrapper.paramwise_cfg.norm_decay_mult = float(value)
    model = build_empty(cfg)
    decays = decays_of(model, cfg.optim_wrapper)
    assert {decays[f'backbone.norm.{key}'] for key in ('weight', 'bias')} == {0.05}
