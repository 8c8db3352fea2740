"""Configs of small experiments: one recipe for every network, and the networks of the paper."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS, MODELS, init_default_scope
from torch import nn

from mmcontainer.backbones import Container
from mmcontainer.checkpoints.official import missing_message

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
# What may differ between the contestants of a table.
OWN = ('model', 'custom_imports', 'custom_hooks')


class Images(list):
    """So many images of one shape, as batch samplers ask for them."""

    def __init__(self, number):
        super().__init__(number * [dict(width=320, height=240)])

    def get_data_info(self, index):
        return self[index]


def recipe(path):
    cfg = Config.fromfile(path).to_dict()
    return {key: value for key, value in cfg.items()
            if key not in OWN and not key.startswith('_') and key not in ('backbone', 'channels')}


def build(cfg):
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('pattern, number', [
    ('imagenette/*_8e_imagenette.py', 9), ('imagenette/*_50pct.py', 2),
    ('imagenette/*_10pct.py', 2), ('bccd/*.py', 4), ('voc/*.py', 2)])
def test_contestants_share_the_recipe(pattern, number):
    first, *others = sorted(CONFIGS.glob(pattern))
    assert len(others) == number - 1
    for other in others:
        assert recipe(other) == recipe(first), other.name


@pytest.mark.parametrize('name', ['bccd', 'voc'])
def test_an_epoch_of_a_detector_ends_with_a_whole_batch(name):
    # One image alone, with two boxes, once had 60 times the usual gradient.
    loader = Config.fromfile(next((CONFIGS / name).glob('*_r50_*.py'))).train_dataloader
    dataset = Images(2 * loader.batch_size + 1)
    batches = DATA_SAMPLERS.build(loader.batch_sampler, default_args=dict(
        sampler=DefaultSampler(dataset, shuffle=False), batch_size=loader.batch_size))
    assert [len(batch) for batch in batches] == 2 * [loader.batch_size]


@pytest.mark.parametrize('arch', ['base', 'dw-3', 'h-deit-s', 'mh-dw-3', 'mlp-lr', 'mh-mlp-lr'])
def test_archs_are_those_of_table_2_at_64_pixels(arch):
    path = CONFIGS / 'imagenette' / f'container_{arch.replace("-", "_")}_1xb64_8e_imagenette.py'
    given = Config.fromfile(path).model.backbone.arch.to_dict()
    assert {'static': None, **given} == {**Container.arch_settings[arch], 'image_size': 64}


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('imagenette/*_8e_imagenette.py')),
                         ids=lambda path: path.stem)
def test_classifiers_have_about_one_size(path):
    assert 17e6 < sum(value.numel() for value in build(Config.fromfile(path)).parameters()) < 24e6


@pytest.mark.parametrize('share', [10, 50])
def test_a_share_has_as_many_iterations_as_all_images(share):
    whole = Config.fromfile(CONFIGS / 'imagenette' / 'deit_s_1xb64_8e_imagenette.py')
    cfg = Config.fromfile(CONFIGS / 'imagenette' / f'deit_s_1xb64_8e_imagenette_{share}pct.py')
    repeated = cfg.train_dataloader.dataset
    assert repeated.type == 'RepeatDataset' and repeated.times * share == 100
    assert repeated.dataset.pop('ann_file') == f'meta/train_{share}pct.txt'
    assert repeated.dataset == whole.train_dataloader.dataset
    for key in ('train_cfg', 'param_scheduler', 'optim_wrapper'):
        assert cfg[key] == whole[key]


@pytest.mark.parametrize('name', ['container_light', 'r50'])
def test_detectors_take_the_backbone_of_the_classifier(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = CONFIGS / 'imagenette' / f'{name}_1xb64_8e_imagenette.py'
    weights = {key: torch.full(value.shape, 2, dtype=value.dtype)
               for key, value in build(Config.fromfile(path)).state_dict().items()}
    cfg = Config.fromfile(CONFIGS / 'bccd' / f'retinanet_{name}_1xb4_12e_bccd.py')
    checkpoint = Path(cfg.model.backbone.init_cfg.checkpoint)
    assert f'mmcontainer reproduce imagenette_{name} ' in missing_message(checkpoint)
    checkpoint.parent.mkdir()
    torch.save(dict(state_dict=weights), checkpoint)
    backbone = build(cfg).backbone
    backbone.init_weights()
    assert all((value == 2).all() for value in backbone.state_dict().values())
    # All batch norms are frozen, and nothing else is.
    backbone.train()
    for module in backbone.modules():
        is_norm = isinstance(module, nn.BatchNorm2d)
        assert not (is_norm and module.training)
        assert all(value.requires_grad != is_norm for value in module.parameters(recurse=False))
