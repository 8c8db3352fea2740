"""The ImageNet configs of 8 x 128 images: the recipe is DeiT's (Container, appendix A.1).

What is expected of the recipe stands in official_deit.yaml, with its source. New files are picked
up without a line being added. CoTNet and CoAtNet have recipes and tests of their own.
"""
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from built import build_empty, decays_of
from learning_rates import trained_rates
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope

from mmcontainer.paper import load_tables

CONFIGS = sorted((Path(__file__).resolve().parents[2] / 'configs' / 'imagenet').glob(
    '*_8xb128_in1k*.py'))
MODELS_ONLY = [path for path in CONFIGS if not path.stem.endswith('pct')]
SUBSETS = [path for path in CONFIGS if path.stem.endswith('pct')]
OFFICIAL = yaml.safe_load(Path(__file__).with_name('official_deit.yaml').read_text())
# The file name's model -> arch and row of the paper's tables.
ARCHS = {
    'container_light': ('light', 'container_light_released'),
    'container_light_paper': ('light-paper', 'container_light'),
    'container_base': ('base', 'container'),
    'container_conv_3': ('conv-3', 'conv_3'),
    'container_group_conv_3': ('group-conv-3', 'group_conv_3'),
    'container_dw_3': ('dw-3', 'dw_3'),
    'container_mh_dw_3': ('mh-dw-3', 'mh_dw_3'),
    'container_mlp': ('mlp', 'mlp'),
    'container_mlp_lr': ('mlp-lr', 'mlp_lr'),
    'container_mh_mlp_lr': ('mh-mlp-lr', 'mh_mlp_lr'),
    'container_h_deit_s': ('h-deit-s', 'h_deit_s'),
    'container_pam': ('pam', 'container_pam'),
    'deit_s': ('deit-small', None),
    'coatnet_0': ('coatnet-0', 'coatnet_0'),
}
WITHOUT_DECAY = re.compile(r'cls_token$|pos_table\.table$|^backbone\.pos_embed$')
BGR_MEAN, BGR_STD = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]


def _name(path):
    return path.stem.partition('_8xb128')[0]


def _load(path):
    cfg = Config.fromfile(path)
    cfg.model.data_preprocessor = cfg.data_preprocessor  # as the runner does
    return cfg


def _build(cfg):
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def _without_gpu(optim_wrapper):
    """The optimizer wrapper in float32: that of mixed precision is built on a GPU only."""
    return dict(optim_wrapper, type='OptimWrapper')


def _types(entries):
    return [entry.type for entry in entries]


each_config = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
each_model = pytest.mark.parametrize('path', MODELS_ONLY, ids=lambda path: path.stem)


def test_there_are_configs():
    assert {path.stem for path in MODELS_ONLY} >= {f'{name}_8xb128_in1k' for name in ARCHS}
    assert {path.stem for path in SUBSETS} >= {
        f'{name}_8xb128_in1k_{share}pct' for name in ('container_light_paper', 'deit_s')
        for share in (10, 50, 80)}


@each_config
def test_recipe(path):
    cfg = Config.fromfile(path)
    assert cfg.default_scope == 'mmpretrain' and 'mmcontainer' in cfg.custom_imports.imports
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert optimizer.pop('_scope_') == 'mmpretrain'
    official = dict(OFFICIAL['optimizer'])
    batch = OFFICIAL['gpus'] * OFFICIAL['images_per_gpu']
    assert optimizer.pop('lr') == pytest.approx(official.pop('lr_per_512') * batch / 512)
    assert optimizer.pop('betas') == tuple(official.pop('betas'))
    assert optimizer == official
    assert OFFICIAL['clip'] is None and not OFFICIAL['ema']
    assert set(cfg.optim_wrapper) == {'type', 'optimizer', 'paramwise_cfg'}, 'no clipping'
    # Its defaults are float16, PyTorch's type on a GPU, and a dynamic scale.
    assert (cfg.optim_wrapper.type, OFFICIAL['amp']) == ('AmpOptimWrapper', 'float16')
    assert cfg.train_cfg == dict(by_epoch=True, max_epochs=OFFICIAL['epochs'], val_interval=1)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=batch)
    assert _types(cfg.custom_hooks) == ['RNGStateHook', 'DeployHook'], 'no EMA'
    assert 'EMAHook' not in _types(cfg.default_hooks.values())
    assert 'Pretrained' not in cfg.pretty_text and cfg.load_from is None


@each_config
def test_data(path):
    cfg = Config.fromfile(path)
    train, val = cfg.train_dataloader, cfg.val_dataloader
    assert (train.batch_size, train.drop_last) == (
        OFFICIAL['images_per_gpu'], OFFICIAL['drop_last'])
    assert dict(train.sampler) == dict(
        type='RepeatAugSampler', shuffle=True, num_repeats=OFFICIAL['repeated_augmentation'],
        _scope_='mmpretrain')
    assert val.sampler.shuffle is False and cfg.test_dataloader == val
    assert (train.dataset.split, val.dataset.split) == ('train', 'val')
    assert train.dataset.data_root == val.dataset.data_root == 'data/imagenet'
    assert cfg.val_evaluator.topk == cfg.test_evaluator.topk == (1, 5)
    load, crop, flip, augment, erase, pack = train.dataset.pipeline
    assert _types([load, pack]) == ['LoadImageFromFile', 'PackInputs']
    assert dict(crop) == dict(
        type='RandomResizedCrop', scale=224, backend='pillow',
        interpolation=OFFICIAL['augmentation']['interpolation'])
    assert dict(flip) == dict(type='RandomFlip', prob=0.5, direction='horizontal')
    assert OFFICIAL['augmentation']['policy'] == 'rand-m9-mstd0.5-inc1'
    assert dict(augment) == dict(
        type='RandAugment', policies='timm_increasing', num_policies=2, total_level=10,
        magnitude_level=9, magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'))
    assert dict(erase) == dict(
        type='RandomErasing', erase_prob=OFFICIAL['augmentation']['erase'], mode='rand',
        min_area_ratio=0.02, max_area_ratio=1 / 3, fill_color=BGR_MEAN, fill_std=BGR_STD)
    assert [dict(step) for step in val.dataset.pipeline[1:3]] == [
        dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=224)]
    preprocessor = dict(cfg.data_preprocessor)
    assert preprocessor == dict(
        num_classes=1000, mean=BGR_MEAN[::-1], std=BGR_STD[::-1], to_rgb=True)


def test_pipelines_run(tmp_path):
    import mmcv
    cfg = _load(CONFIGS[0])
    init_default_scope('mmpretrain')
    mmcv.imwrite(np.full((300, 200, 3), 99, np.uint8), str(tmp_path / 'x.png'))
    for split in ('train', 'val'):
        pipeline = Compose(cfg[f'{split}_dataloader'].dataset.pipeline)
        out = pipeline(dict(img_path=str(tmp_path / 'x.png'), gt_label=7))
        assert out['inputs'].shape == (3, 224, 224) and out['data_samples'].gt_label.item() == 7


def _official_rate(epoch):
    """timm's warm-up and cosine, as the official loop steps them."""
    schedule, highest = OFFICIAL['schedule'], 1e-3
    time, low = max(epoch - schedule['lag'], 0), schedule['min_lr']
    if time < schedule['warmup_epochs']:
        start = schedule['warmup_lr']
        return start + time / schedule['warmup_epochs'] * (highest - start)
    return low + (highest - low) * (1 + math.cos(math.pi * time / OFFICIAL['epochs'])) / 2


def test_learning_rate_over_300_epochs(tmp_path):
    """The learning rates that MMEngine makes of the schedule, with 2 iterations per epoch."""
    rates = trained_rates(Config.fromfile(CONFIGS[0]), tmp_path)
    assert len(rates) == OFFICIAL['epochs']
    assert OFFICIAL['schedule']['by_epoch'] and np.array_equal(rates[:, 0], rates[:, 1])
    expected = np.array([_official_rate(epoch) for epoch in range(OFFICIAL['epochs'])])
    assert np.allclose(rates[:6, 0], expected[:6], rtol=1e-6)
    # MMEngine's cosine starts behind the warm-up, timm's at epoch 0.
    difference = np.abs(rates[:, 0] - expected)
    assert difference.max() < 0.015e-3 and difference[-1] < 2e-7


@each_model
def test_model(path):
    """From its own scope, by an unprefixed name, to finite logits and loss."""
    from mmpretrain.structures import DataSample
    cfg, (arch, row) = _load(path), ARCHS[_name(path)]
    model = _build(cfg)
    assert cfg.model.backbone.arch == arch or arch == 'light'
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    highest = 0.2 if _name(path).startswith('coatnet') else OFFICIAL['drop_path']
    assert max(rates) == pytest.approx(highest) and rates == sorted(rates)
    loss = model.head.loss_module
    assert (loss.label_smooth_val, loss.mode) == (OFFICIAL['smoothing'], 'original')
    augments = model.data_preprocessor.batch_augments
    assert [(type(item).__name__, item.alpha) for item in augments.augments] == [
        ('Mixup', OFFICIAL['mixup']), ('CutMix', OFFICIAL['cutmix'])] and augments.probs is None
    data = dict(inputs=torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
                data_samples=[DataSample().set_gt_label(label) for label in (3, 999)])
    data = model.data_preprocessor(data, training=True)
    assert torch.allclose(data['data_samples'][0].gt_score.sum(), torch.tensor(1.))
    value = model.train()(**data, mode='loss')['loss']
    # Untrained, about as good as guessing one of 1000 classes.
    assert abs(value.item() - math.log(1000)) < 1
    value.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all()
               for parameter in model.parameters())
    with torch.no_grad():
        logits = model.eval()(data['inputs'], mode='tensor')
    assert logits.shape == (2, 1000) and logits.isfinite().all()
    published = load_tables()['classification'][row] if row else {}
    if 'params' in published:
        parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        assert abs(parameters - published['params']) <= 0.1


@each_model
def test_weight_decay_of_every_parameter(path):
    """DeiT's rule, written down anew: vectors, class token and position tables have none."""
    cfg = _load(path)
    model = build_empty(cfg)
    found = decays_of(model, _without_gpu(cfg.optim_wrapper))
    assert cfg.optim_wrapper.optimizer.lr == 1e-3
    parameters = dict(model.named_parameters())
    assert found == {name: 0. if parameter.ndim == 1 or WITHOUT_DECAY.search(name) else 0.05
                     for name, parameter in parameters.items()}
    tables = {name for name, decay in found.items() if not decay and parameters[name].ndim > 1}
    if _name(path).startswith('container_light'):
        assert tables == set()  # positions are embedded by convolutions, which decay
        assert found['backbone.stages.0.blocks.0.pos_embed.weight'] == 0.05
        assert found['backbone.stages.3.blocks.0.aggregation.mix_logit'] == 0.
    elif _name(path).startswith('coatnet'):
        assert tables == set()
    elif _name(path) == 'deit_s':
        assert tables == {'backbone.cls_token', 'backbone.pos_embed'}
    elif _name(path) == 'container_pam':
        assert tables == {f'backbone.stages.0.patch_embed.{name}'
                          for name in ('cls_token', 'pos_table.table')}
    else:
        assert tables == {f'backbone.stages.{stage}.pos_table.table' for stage in range(4)}


@pytest.mark.parametrize('path', SUBSETS, ids=lambda path: path.stem)
def test_subset_differs_by_its_list_only(path):
    stem, percent = re.match(r'(.+)_(\d+)pct$', path.stem).groups()
    cfg = Config.fromfile(path)
    assert cfg.train_dataloader.dataset.pop('ann_file') == f'meta/train_{percent}pct.txt'
    assert cfg.to_dict() == Config.fromfile(path.with_name(f'{stem}.py')).to_dict()
    share = int(percent) / 100
    assert share in load_tables()['data_efficiency']
    command = ' '.join(path.read_text().replace('#', '').split())
    assert f'--share {share:g} --out DIR/meta/train_{percent}pct.txt' in command


def test_configs_of_the_documentation(repo_root, tmp_path):
    blocks = re.findall(r'(?s)```python\n(.+?)```', (repo_root / 'docs/imagenet.md').read_text())
    classifier, detector = tmp_path / 'classifier.py', tmp_path / 'detector.py'
    for path in (classifier, detector):
        path.write_text(blocks.pop(0))
    assert not blocks
    cfg = _load(classifier)
    assert _build(cfg).head.fc.out_features == cfg.data_preprocessor.num_classes == 2
    assert {cfg[f'{split}_dataloader'].dataset.data_root for split in ('train', 'val', 'test')} == {
        'data/pets'}
    init_cfg = Config.fromfile(detector).model.backbone.init_cfg
    assert (init_cfg.type, Path(init_cfg.checkpoint).name) == ('StrictPretrained', 'epoch_300.pth')
