"""Configs of MMSegmentation's models: the recipes they claim, and messages about what is wrong."""
import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from built import build_empty
from learning_rates import stepped_rates
from mmengine.optim import build_optim_wrapper
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontainer.analysis.report import report_flops
from mmcontainer.cli import config_check
from mmcontainer.cli.configs import build_model, load_config
from mmcontainer.cli.data_root import set_data_root
from mmcontainer.cli.models import check_channels
from mmcontainer.config_nodes import loader_datasets
from mmcontainer.data_check import check_data
from mmcontainer.errors import UserError

CONFIGS = [f'{folder}/{name}_{length}_ade20k' for folder, length in (
    ('fpn', '80k'), ('upernet', '160k')) for name in ('container_light', 'cotnet_50')]
DEMO = 'fpn/container_light_demo_shapes'
CHANNELS = {'container_light': [64, 128, 320, 512], 'cotnet_50': [256, 512, 1024, 2048]}
needs_mmseg = pytest.mark.skipif(
    find_spec('mmseg') is None, reason='needs MMSegmentation: make test-seg')


def load(name, options=None):
    return load_config(f'mmcontainer::{name}.py', options)


def channels_of(name):
    return next(value for key, value in CHANNELS.items() if key in name)


@needs_mmseg
@pytest.mark.parametrize('name', [*CONFIGS, DEMO])
@pytest.mark.parametrize('size', [(64, 96), (65, 97), (45, 130)])
def test_maps_of_any_size(name, size):
    """Container rounds sides down, CoTNet up; the logits have the size of the first map."""
    cfg = load(name)
    model = build_empty(cfg).eval()
    channels = channels_of(name)
    assert list(model.backbone.arch['embed_dims']) == channels
    assert cfg.default_scope == 'mmseg' and 'mmcontainer' in cfg.custom_imports.imports
    logits = model(torch.empty(2, 3, *size, device='meta'), mode='tensor')
    sides = [side // 4 if 'container' in name else -(-side // 4) for side in size]
    assert tuple(logits.shape) == (2, 5 if name == DEMO else 150, *sides)


@needs_mmseg
@pytest.mark.parametrize('name', CONFIGS)
def test_nothing_is_frozen_and_norms_decay_as_in_the_recipe(name):
    cfg = load(name)
    model = build_empty(cfg).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    assert norms and all(module.training for module in norms)
    of_norms = {id(parameter) for module in norms for parameter in module.parameters()}
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert type(wrapper.optimizer) is torch.optim.AdamW and wrapper.clip_grad_kwargs is None
    decay, of_a_norm = (1e-4, 1e-4) if name.startswith('fpn') else (0.01, 0.)
    for group in wrapper.optimizer.param_groups:
        for parameter in group['params']:
            assert group['weight_decay'] == (of_a_norm if id(parameter) in of_norms else decay) or (
                # MMEngine counts layer norms among norms too.
                parameter.dim() == 1 and group['weight_decay'] == of_a_norm)
    assert model.backbone.drop_path_rate == (0.1 if name.startswith('fpn') else 0.3)


@needs_mmseg
def test_recipe_of_semantic_fpn(tmp_path):
    """Pyramid Vision Transformer, section 5.3: 80k iterations, 16 images, 1e-4, power 0.9."""
    cfg = load(CONFIGS[0])
    assert cfg.train_dataloader.batch_size == 4 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg.max_iters == 80000
    rates = stepped_rates(cfg, tmp_path, 4)
    expected = 1e-4 * (1 - np.arange(80000) / 79999)**0.9
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)
    _check_sides_of_test_images(cfg)


def _check_sides_of_test_images(cfg):
    """No backbone drops rows or columns; the true map keeps its size."""
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        steps = [step.type for step in loader.dataset.pipeline]
        assert steps == [
            'LoadImageFromFile', 'Resize', 'ResizeToMultiple', 'LoadAnnotations', 'PackSegInputs']
        assert loader.dataset.pipeline[2].size_divisor == 32


@needs_mmseg
def test_recipe_of_upernet(tmp_path):
    """Swin Transformer: 160k iterations, 16 images, 6e-5, warm-up of 1500 from 1e-6 of it."""
    cfg = load(CONFIGS[2])
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg.max_iters == 160000
    rates = stepped_rates(cfg, tmp_path, 4)
    assert rates[0] == pytest.approx(6e-11) and rates[750] == pytest.approx(3e-5, rel=2e-3)
    after = np.arange(1500, 160000)
    np.testing.assert_allclose(rates[1500:], 6e-5 * (159999 - after) / (159999 - 1500), rtol=1e-5,
                               atol=1e-12)
    _check_sides_of_test_images(cfg)


@needs_mmseg
@pytest.mark.parametrize('name', CONFIGS)
def test_crops_and_classes_are_those_of_ade20k(name):
    cfg = load(name)
    assert cfg.model.data_preprocessor.size == (512, 512) and cfg.crop_size == (512, 512)
    assert cfg.model.decode_head.num_classes == 150
    assert cfg.train_dataloader.dataset.type == 'ADE20KDataset'
    assert cfg.model.get('pretrained') is None
    assert cfg.model.backbone.init_cfg.checkpoint.startswith('checkpoints/')


@needs_mmseg
def test_cost_is_that_of_a_crop():
    """The head, which is called without hooks, is the rest; the auxiliary head does not infer."""
    text = report_flops('mmcontainer::upernet/container_light_160k_ade20k.py')
    assert text.startswith('one image of 512 x 512;')
    assert re.findall(r'(\w+) +[\d.]+ G', text) == ['backbone', 'rest'], text


@needs_mmseg
def test_missing_data_and_data_root(tmp_path):
    cfg = load(CONFIGS[0])
    set_data_root(cfg, str(tmp_path))
    assert {leaf.data_root for leaf in loader_datasets(cfg)} == {str(tmp_path)}
    (tmp_path / 'images' / 'training').mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        check_data(cfg)
    message = str(caught.value)
    for part in ('images/training/: empty', 'annotations/training/: missing',
                 'images/validation/: missing', 'ADEChallengeData2016', '--maps'):
        assert part in message
    assert 'cocodataset' not in message


@needs_mmseg
@pytest.mark.parametrize('change, text', [
    (dict(arch='heavy'), "Unknown arch 'heavy'"), (dict(out_indices=(0, 4)), 'out_indices must')])
def test_what_a_backbone_refuses_is_a_message(change, text):
    cfg = load(CONFIGS[0])
    cfg.model.backbone.update(change)
    with pytest.raises(UserError, match=text):
        build_model(cfg.model, cfg.default_scope)


@needs_mmseg
@pytest.mark.parametrize('name', [*CONFIGS, DEMO])
def test_channels_that_do_not_fit_are_a_message(name):
    cfg = load(name)
    check_channels(build_empty(cfg))
    part = 'neck' if name.startswith('fpn') else 'decode_head'
    cfg.model.backbone.out_indices = (1, 2, 3)
    with pytest.raises(UserError, match=rf'model.{part}.in_channels.*out_indices=\(1, 2, 3\)'):
        check_channels(build_empty(cfg))
    cfg.model.backbone.out_indices = (0, 1, 2, 3)
    cfg.model[part].in_channels = [8, 16, 32, 64]
    with pytest.raises(UserError, match=r'is \[8, 16, 32, 64\]'):
        check_channels(build_empty(cfg))


@needs_mmseg
def test_channels_of_an_auxiliary_head_are_checked_too():
    cfg = load('upernet/container_light_160k_ade20k')
    cfg.model.auxiliary_head.in_channels = 1024
    with pytest.raises(UserError, match=r'auxiliary_head.in_channels is \[1024\].*in_index=\[2\]'):
        check_channels(build_empty(cfg))


@pytest.mark.skipif(find_spec('mmseg') is not None, reason='MMSegmentation is installed')
@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('stack, package', [
    ('onedl', 'onedl-mmsegmentation==1.4.2'), ('upstream', 'mmsegmentation==1.2.2')])
def test_what_to_do_without_mmsegmentation(monkeypatch, name, stack, package):
    monkeypatch.setattr(config_check, 'current_stack', lambda: stack)
    with pytest.raises(UserError, match=f'mmseg is not installed.*pip install {package}'):
        load(name)


@pytest.mark.skipif(find_spec('mmseg') is not None, reason='MMSegmentation is installed')
def test_scope_without_mmsegmentation(tmp_path):
    (tmp_path / 'own.py').write_text("default_scope = 'mmseg'\nmodel = dict(type='FCN')\n")
    with pytest.raises(UserError, match="'mmseg', which cannot be imported.*pip install"):
        load_config(str(tmp_path / 'own.py'))
