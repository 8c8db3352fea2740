"""CoTNet's ImageNet configs have the values of its official code.

What is expected stands in official_cotnet_imagenet.yaml, with its source. New files named
*cotne* are picked up without a line being added.
"""
import functools
import math
import re
from pathlib import Path

import mmcv
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
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontainer.analysis.report import report_flops
from mmcontainer.cli.configs import load_config
from mmcontainer.paper import load_tables

FOLDER = Path(__file__).resolve().parents[2] / 'configs' / 'imagenet'
OFFICIAL = yaml.safe_load(Path(__file__).with_name('official_cotnet_imagenet.yaml').read_text())
COMMON, AUGMENT = OFFICIAL['common'], OFFICIAL['randaugment']
LARGE = 'se_cotnetd_152_l'
# Tested with 320 x 320 pixels; nothing else is known of it.
MODELS_OF_CONFIGS = {**OFFICIAL['models'], LARGE: {
    **OFFICIAL['models']['se_cotnetd_152'], 'test': OFFICIAL['large']}}

each_model = pytest.mark.parametrize('name', MODELS_OF_CONFIGS)


def _path(name):
    return FOLDER / f"{name}_{OFFICIAL['gpus']}xb{MODELS_OF_CONFIGS[name]['batch_size']}_in1k.py"


@functools.cache
def _read(name):
    return Config.fromfile(_path(name))


def _load(name):
    cfg = _read(name).copy()
    cfg.model.data_preprocessor = cfg.data_preprocessor  # as the runner does
    return cfg


def _types(entries):
    return [entry.type for entry in entries]


def _plain(step):
    """Without the scope that MMEngine notes in what comes from MMPretrain's configs."""
    return {key: value for key, value in step.items() if key != '_scope_'}


def test_every_config_is_of_an_official_model():
    assert sorted(FOLDER.glob('*cotne*.py')) == sorted(map(_path, MODELS_OF_CONFIGS))


@each_model
def test_recipe(name):
    cfg, official = _load(name), MODELS_OF_CONFIGS[name]
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert (COMMON['opt'], OFFICIAL['no_decay']) == ('sgd', 'vectors and biases')
    assert optimizer == dict(type='SGD', lr=official['lr'], momentum=COMMON['momentum'],
                             nesterov=True, weight_decay=official['weight_decay'])
    assert OFFICIAL['defaults']['clip_grad'] < 0 and not COMMON['amp']
    assert cfg.optim_wrapper.type == 'OptimWrapper', 'float32'
    assert set(cfg.optim_wrapper) == {'type', 'optimizer', 'paramwise_cfg'}, 'no clipping'
    batch = OFFICIAL['gpus'] * official['batch_size']
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=batch)
    assert official['lr'] == pytest.approx(0.1 * batch / 256)  # one rule for all of them
    assert cfg.train_cfg == dict(by_epoch=True, max_epochs=COMMON['epochs'], val_interval=1)
    assert cfg.default_scope == 'mmpretrain' and 'mmcontainer' in cfg.custom_imports.imports
    assert 'Pretrained' not in cfg.pretty_text and cfg.load_from is None
    # Norms: neither shared between GPUs, nor of another momentum; averaged behind each epoch.
    assert 'sync_bn' not in cfg and not COMMON['sync_bn'] and COMMON['bn_momentum'] < 0
    assert 'norm_cfg' not in cfg.model.backbone
    assert (COMMON['dist_bn'], OFFICIAL['broadcast_buffers']) == ('reduce', True)
    assert cfg.model_wrapper_cfg == dict(type='MMDistributedDataParallel', broadcast_buffers=True)
    assert _types(cfg.custom_hooks) == ['RNGStateHook', 'DeployHook', 'EMAHook', 'SyncBuffersHook']
    average = dict(cfg.custom_hooks[2])
    assert 1 - average.pop('momentum') == pytest.approx(COMMON['model_ema_decay'], abs=1e-12)
    assert average == dict(type='EMAHook', update_buffers=OFFICIAL['ema']['buffers'])
    assert cfg.default_hooks.checkpoint.save_best == 'accuracy/top1'


@each_model
def test_data(name):
    cfg, official = _load(name), MODELS_OF_CONFIGS[name]
    train, val = cfg.train_dataloader, cfg.val_dataloader
    assert (train.batch_size, train.drop_last) == (official['batch_size'], OFFICIAL['drop_last'])
    assert OFFICIAL['sampler'] == 'DistributedSampler'
    assert _plain(train.sampler) == dict(type='DefaultSampler', shuffle=True)
    assert val.batch_size == COMMON['vbatch_size'] and val.sampler.shuffle is False
    assert cfg.test_dataloader == val
    assert (train.dataset.split, val.dataset.split) == ('train', 'val')
    assert train.dataset.data_root == val.dataset.data_root == 'data/imagenet'
    assert cfg.val_evaluator.topk == cfg.test_evaluator.topk == (1, 5)
    load, crop, flip, augment, pack = map(_plain, train.dataset.pipeline)
    assert COMMON['reprob'] == 0 and pack == dict(type='PackInputs')  # no random erasing
    assert load == dict(type='LoadImageFromFile', imdecode_backend='pillow')
    assert crop == dict(type='RandomResizedCrop', scale=official['input_size'], backend='pillow',
                        interpolation=COMMON['train_interpolation'])
    assert flip == dict(type='RandomFlip', prob=COMMON['hflip'], direction='horizontal')
    options = {key: value for key, value in augment.items() if key != 'policies'}
    assert COMMON['aa'] == 'rand-m15-mstd0.5-n2'
    assert options == dict(
        type='RandAugment', num_policies=2, total_level=AUGMENT['max_magnitude'],
        magnitude_level=15, magnitude_std=0.5,
        hparams=dict(pad_val=AUGMENT['fill'][::-1], interpolation=AUGMENT['interpolation']))
    size = official.get('test', official)
    assert list(map(_plain, val.dataset.pipeline)) == [
        load, dict(type='ResizeEdge', scale=math.floor(size['input_size'] / size['crop_pct']),
                   edge='short', backend='pillow',
                   interpolation=OFFICIAL['pixels']['test_interpolation']),
        dict(type='CenterCrop', crop_size=size['input_size']), pack]
    pixels = {key: pytest.approx([255 * value for value in OFFICIAL['pixels'][key]])
              for key in ('mean', 'std')}
    assert cfg.data_preprocessor == dict(num_classes=1000, to_rgb=True, **pixels)
    augments = cfg.model.train_cfg.augments  # MMPretrain chooses between them with equal chances
    assert (COMMON['mixup_prob'], COMMON['mixup_switch_prob']) == (1, 0.5)
    assert augments == [dict(type='Mixup', alpha=COMMON['mixup']),
                        dict(type='CutMix', alpha=COMMON['cutmix'])]


def test_crops_are_official():
    from mmpretrain.datasets import RandomResizedCrop
    crop = RandomResizedCrop(scale=224)
    assert crop.crop_ratio_range == tuple(COMMON['scale'])
    assert crop.aspect_ratio_range == pytest.approx(COMMON['ratio'])


@each_model
def test_magnitudes(name):
    """Every operation in the official order, and what every magnitude that is drawn makes of it."""
    cfg, size = _load(name), MODELS_OF_CONFIGS[name]['input_size']
    policies = cfg.train_dataloader.dataset.pipeline[3].policies
    assert len(policies) == len(AUGMENT['operations'])
    for policy, (operation, official) in zip(policies, AUGMENT['operations'].items()):
        shared = {'Color': 'ColorTransform', 'ShearX': 'Shear', 'ShearY': 'Shear',
                  'TranslateX': 'Translate', 'TranslateY': 'Translate'}
        assert policy.type == shared.get(operation, operation)
        direction = {'X': 'horizontal', 'Y': 'vertical'}.get(operation[-1])
        assert policy.get('direction') == direction
        if not official:
            assert set(policy) == {'type'}
            continue
        assert policy.get('random_negative_prob', 0.5) == (0 if 'offset' in official else 0.5)
        low, high = policy.magnitude_range
        for magnitude in (13., 13.7, 14.4, 14.9, 15.):
            value = low + magnitude / AUGMENT['max_magnitude'] * (high - low)
            expected = official['per_magnitude'] * magnitude + official.get('offset', 0)
            if official.get('integer'):
                expected = int(expected)
            if operation == 'Posterize':
                assert math.ceil(value) == expected
            elif operation == 'Solarize':
                assert value > 255 and expected > 255  # no pixel is as bright
            elif operation == 'SolarizeAdd':
                assert expected <= value < expected + 1
            elif operation == 'Cutout':
                assert abs(int(value) - (2 * expected + 1)) <= 1
            elif operation.startswith('Translate'):
                assert value * size == pytest.approx(expected)
            else:
                assert value + (1 if 'offset' in official else 0) == pytest.approx(expected)


def _picture():
    """A smooth picture in RGB with a little noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = 20 + 200 * torch.rand(1, 3, 28, 28, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(224, 224), mode='bicubic')[0]
    noisy = smooth + 3 * torch.randn(smooth.shape, generator=generator)
    return noisy.clamp(9, 239).byte().permute(1, 2, 0).numpy()


def _pillow(image, operation, value):
    """An operation in Pillow, as the official code has them."""
    def affine(*matrix):
        return image.transform(image.size, Image.AFFINE, matrix, resample=Image.BICUBIC,
                               fillcolor=tuple(AUGMENT['fill']))
    if operation in ('Color', 'Contrast', 'Brightness', 'Sharpness'):
        return getattr(ImageEnhance, operation)(image).enhance(value)
    if operation == 'SolarizeAdd':
        table = [min(255, level + int(value)) if level < 128 else level for level in range(256)]
        return image.point(table * 3)
    return {
        'AutoContrast': lambda: ImageOps.autocontrast(image),
        'Equalize': lambda: ImageOps.equalize(image),
        'Invert': lambda: ImageOps.invert(image),
        'Rotate': lambda: image.rotate(-value, resample=Image.BICUBIC,
                                       fillcolor=tuple(AUGMENT['fill'])),
        'Posterize': lambda: ImageOps.posterize(image, int(value)),
        'Solarize': lambda: ImageOps.solarize(image, int(value)),
        'ShearX': lambda: affine(1, -value, 0, 0, 1, 0),
        'ShearY': lambda: affine(1, 0, 0, -value, 1, 0),
        'TranslateX': lambda: affine(1, 0, -value, 0, 1, 0),
        'TranslateY': lambda: affine(1, 0, 0, 0, 1, -value)}[operation]()


# Mean difference of the pixels, from 0 to 255. Pillow leaves the border as it is when it smooths,
# turns colours to grey with other rounding, interpolates rotations with another cubic, and shears
# about the corner of the first pixel, not about its middle.
DIFFERENCES = {'Sharpness': 0.2, 'Color': 0.5, 'Rotate': 1.5, 'ShearX': 4, 'ShearY': 4}


@pytest.mark.parametrize('magnitude', (14.6, 15.))
@pytest.mark.parametrize('operation', [name for name in AUGMENT['operations'] if name != 'Cutout'])
def test_operations_are_pillows(operation, magnitude):
    from mmpretrain.datasets.transforms.auto_augment import merge_hparams
    from mmpretrain.registry import TRANSFORMS
    augment = _load('cotnet_50').train_dataloader.dataset.pipeline[3]
    index = list(AUGMENT['operations']).index(operation)
    policy = merge_hparams(augment.policies[index].to_dict(), augment.hparams)
    policy['prob'] = 1
    official = AUGMENT['operations'][operation]
    if official:
        policy.update(magnitude_level=magnitude, total_level=augment.total_level)
    if official.get('negate'):
        policy['random_negative_prob'] = 0
    picture = _picture()
    found = TRANSFORMS.build(policy)(dict(img=picture[..., ::-1].copy()))['img'][..., ::-1]
    value = official.get('per_magnitude', 0) * magnitude + official.get('offset', 0)
    expected = np.asarray(_pillow(Image.fromarray(picture), operation, value))
    changed = np.abs(expected.astype(int) - picture).mean()
    assert changed == 0 if operation == 'Solarize' else changed > 1
    difference = np.abs(found.astype(int) - expected).mean()
    assert difference <= DIFFERENCES.get(operation, 0.01 if 'Translate' not in operation else 1)


def test_cutout_is_pillows(monkeypatch):
    """The same box, filled, around the same middle."""
    from mmpretrain.datasets import Cutout
    picture, middle = _picture(), iter([100.7, 30.2])  # y is drawn first
    monkeypatch.setattr(np.random, 'uniform', lambda high: next(middle))
    found = Cutout(shape=121, pad_val=AUGMENT['fill'], prob=1)(dict(img=picture.copy()))['img']
    x, y = (int(max(0, value - 60)) for value in (30.2, 100.7))
    expected = Image.fromarray(picture)
    ImageDraw.Draw(expected).rectangle((x, y, x + 120, y + 120), tuple(AUGMENT['fill']))
    wrong = (found != np.asarray(expected)).any(axis=-1)
    assert wrong.sum() <= 2 * 121  # its upper left corner is rounded from half a pixel less


def test_an_operation_is_applied_as_often():
    """The official chance is drawn anew each time; on average it is MMPretrain's default."""
    from mmpretrain.datasets import Invert
    assert Invert().prob == np.mean(AUGMENT['prob'])


def _official_rate(time, highest):
    if time < COMMON['warmup_epochs']:
        step = (highest - COMMON['warmup_lr']) / COMMON['warmup_epochs']
        return COMMON['warmup_lr'] + time * step
    turn = math.cos(math.pi * time / COMMON['epochs'])
    return COMMON['min_lr'] + (highest - COMMON['min_lr']) * (1 + turn) / 2


@pytest.mark.parametrize('name', ['cotnet_50', 'cotnet_101', 'se_cotnetd_152'])  # all three rates
def test_learning_rate_of_every_epoch(name, tmp_path):
    schedule, highest = OFFICIAL['schedule'], MODELS_OF_CONFIGS[name]['lr']
    rates = trained_rates(_load(name), tmp_path)
    assert rates.shape == (COMMON['epochs'], 2)
    assert schedule['by_epoch'] and np.array_equal(rates[:, 0], rates[:, 1])
    expected = [_official_rate(epoch - schedule['lag'], highest) for epoch in range(len(rates))]
    assert np.allclose(rates[:5, 0], expected[:5], rtol=4e-4)  # the warm-up
    assert np.allclose(rates[5:, 0], expected[5:], rtol=1e-7)


def test_every_schedule_is_of_its_own_rate():
    for name, official in MODELS_OF_CONFIGS.items():
        warmup, cosine = _load(name).param_scheduler
        assert warmup.start_factor * official['lr'] == pytest.approx(COMMON['warmup_lr'])
        assert cosine == _load('cotnet_50').param_scheduler[1]


@each_model
def test_weight_decay_of_every_parameter(name):
    cfg, official = _load(name), MODELS_OF_CONFIGS[name]
    model = build_empty(cfg)
    assert cfg.optim_wrapper.optimizer.lr == official['lr']
    assert decays_of(model, cfg.optim_wrapper) == {
        key: 0. if parameter.ndim == 1 or key.endswith('.bias') else official['weight_decay']
        for key, parameter in model.named_parameters()}


@each_model
def test_model(name):
    cfg, official = _load(name), MODELS_OF_CONFIGS[name]
    model = build_empty(cfg)
    arch = re.sub('_l$', '', name).replace('_', '-')
    assert cfg.model.backbone.arch == arch
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert max(rates) == pytest.approx(official['drop_path']) and rates == sorted(rates)
    pool, dropout = model.neck
    assert (type(pool).__name__, dropout.p) == ('GlobalAveragePooling', COMMON['drop'])
    loss = model.head.loss_module
    assert (loss.label_smooth_val, loss.mode) == (COMMON['smoothing'], 'original')
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    assert {norm.momentum for norm in norms} == {0.1}
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert abs(parameters - load_tables()['classification'][name]['params']) <= 0.1


def test_flops_are_those_of_the_size_of_evaluation():
    row, size = load_tables()['classification'][LARGE], _load(LARGE).test_pipeline[2].crop_size
    assert row['input'] == size
    text = report_flops(str(_path(LARGE)), shape=(size, size))
    assert abs(float(re.search(r'FLOPs: ([\d.]+) G', text)[1]) - row['flops']) < 0.3


def test_classifier_trains():
    """From uint8 images to a loss and gradients, from the official initial weights."""
    from mmpretrain.structures import DataSample
    cfg = _load('cotnet_50')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    assert OFFICIAL['linear_init'] == 'pytorch'
    bound = model.head.in_channels**-0.5
    for values in model.head.fc.state_dict().values():
        assert 0.9 * bound < values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not any(block.bn3.weight.any() for block in model.backbone.layer4)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    data = dict(inputs=images, data_samples=[DataSample().set_gt_label(i) for i in (3, 999)])
    data = model.data_preprocessor(data, training=True)
    value = model.train()(**data, mode='loss')['loss']
    assert abs(value.item() - math.log(1000)) < 1
    value.backward()
    assert all(p.grad.isfinite().all() for p in model.head.parameters())
    pooled, = model.neck((torch.ones(1, 2048, 3, 3), ))
    assert pooled.shape == (1, 2048) and (pooled == 0).any()  # dropped


@pytest.mark.parametrize(('name', 'sizes'), [('cotnet_50', (224, 224)), (LARGE, (256, 320))])
def test_pipelines_run_in_a_config_of_ones_own(name, sizes, tmp_path):
    """Everything of them is found, also by a config that changes a copy of a pipeline."""
    own = tmp_path / 'own.py'
    own.write_text(f"_base_ = 'mmcontainer::imagenet/{_path(name).name}'\n"
                   'train_pipeline = _base_.train_pipeline\n'
                   'train_pipeline[2].prob = 0.\n'
                   'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))\n')
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(own)
    mmcv.imwrite(np.full((300, 400, 3), 99, np.uint8), str(tmp_path / 'x.png'))
    for loader, size in zip((cfg.train_dataloader, cfg.val_dataloader), sizes):
        pipeline = Compose(loader.dataset.pipeline)
        out = pipeline(dict(img_path=str(tmp_path / 'x.png'), gt_label=7))
        assert out['inputs'].shape == (3, size, size)


def test_accumulation_of_the_documentation(repo_root):
    """Its command averages as often as it takes a step, of as many images as the recipe's."""
    text = (repo_root / 'docs' / 'imagenet.md').read_text()
    config, options = re.search(r'train.py (\S+cotnet_50\S+) --cfg-options (.+)', text).groups()
    options = dict(option.split('=') for option in options.split())
    steps = {key: int(value) for key, value in options.items()}
    cfg = load_config(str(repo_root / config), steps)
    hook, = (hook for hook in cfg.custom_hooks if hook.type == 'EMAHook')
    assert hook.interval == cfg.optim_wrapper.accumulative_counts == OFFICIAL['gpus']


def test_average_of_weights_is_official():
    """The official average of parameters and running statistics, from the first iteration on.

    Before it, the official one is the initial model; ours starts with the model behind it, and what
    is left of the difference after n iterations is 0.9999 ** n of it.
    """
    hook = _load('cotnet_50').custom_hooks[2].copy()
    hook.pop('type')
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    average = MODELS.build(dict(type='ExponentialMovingAverage', model=model, **hook))
    expected, decay = None, COMMON['model_ema_decay']
    for _ in range(5):
        with torch.no_grad():
            model(torch.randn(8, 2).double())
            for values in model.parameters():
                values += 1
        average.update_parameters(model)
        current = {key: value.clone() for key, value in model.state_dict().items()}
        if expected is None:
            expected = current
        expected = {key: decay * expected[key] + (1 - decay) * value
                    for key, value in current.items() if value.is_floating_point()}
    found = average.module.state_dict()
    assert {'1.running_mean', '1.running_var', '0.weight'} <= expected.keys()
    assert all(torch.allclose(found[key], value, rtol=1e-12) for key, value in expected.items())
