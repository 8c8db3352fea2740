"""Where the papers are silent: every option of the table in docs/reproduce.md does what it says."""
import ast
import re
from pathlib import Path

import pytest
import torch
from built import build_empty, decays_of
from mmcv.cnn.bricks import DropPath
from torch import nn

from mmcontainer.cli.configs import load_config
from mmcontainer.layers import MapNorm

DOCUMENT = Path(__file__).resolve().parents[2] / 'docs' / 'reproduce.md'
DETECTORS = ('retinanet/container_light_fpn_1x_coco', 'mask_rcnn/container_light_fpn_1x_coco',
             'detr/detr_container_light_50e_coco')
CONFIGS = {'RetinaNet, Mask R-CNN, DETR': DETECTORS, 'RetinaNet, Mask R-CNN': DETECTORS[:2],
           'DETR': DETECTORS[2:], 'ImageNet': ('imagenet/container_light_8xb128_in1k', )}


def _rows():
    """(names of configs, option, value) of every row of the table."""
    text = DOCUMENT.read_text().split('## What the papers leave open')[1].split('\n## ')[0]
    lines = [line for line in text.splitlines() if line.startswith('|')]
    for line in lines[2:]:
        _, configs, _, _, option = (cell.strip() for cell in line.strip('|').split('|'))
        key, value = re.fullmatch(r'`([\w.]+)=(.+)`', option).groups()
        for config in CONFIGS[configs]:
            yield pytest.param(config, key, ast.literal_eval(value), id=f'{config}-{key}')


def _load(config, options=None):
    return load_config(f'mmcontainer::{config}.py', options)


def _drop_path(cfg):
    return max(m.drop_prob for m in build_empty(cfg).modules() if isinstance(m, DropPath))


def _decay_of_norms(cfg):
    """Weight decays of layer norms; all else decays whatever the option is."""
    model = build_empty(cfg)
    decays = decays_of(model, cfg.optim_wrapper)
    in_norms = {f'{prefix}.{name}' for prefix, module in model.named_modules()
                if isinstance(module, nn.LayerNorm) for name, _ in module.named_parameters()}
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert in_norms and {decays[name] for name in trained - in_norms} == {0.05}
    found, = {decays[name] for name in in_norms}
    return found


def _out_norms(cfg):
    backbone = build_empty(cfg).backbone
    norms = [m for m in (backbone.out_norms or {}).values() if type(m) is MapNorm]
    assert len(norms) in (0, len(backbone.out_indices))
    return bool(norms)


def _frozen(cfg):
    """Number of stages without a gradient."""
    backbone = build_empty(cfg).backbone.train()
    frozen = [not any(p.requires_grad for p in stage.parameters()) for stage in backbone.stages]
    assert frozen == sorted(frozen, reverse=True)
    return sum(frozen) or -1


def _padding(cfg):
    """What the size of a batch is a multiple of."""
    preprocessor = build_empty(cfg).data_preprocessor
    assert preprocessor.batch_augments is None
    return preprocessor.pad_size_divisor


def _repeats(cfg):
    from mmpretrain.datasets.samplers import RepeatAugSampler
    options = {key: value for key, value in cfg.train_dataloader.sampler.items()
               if key not in ('type', '_scope_')}
    drawn = list(RepeatAugSampler(range(512), **options))
    return int(torch.bincount(torch.tensor(drawn)).max())


# {option: (what it changes, as found in a built model; its value in our configs)}
EFFECTS = {
    'model.backbone.drop_path_rate': (_drop_path, 0.1),
    'optim_wrapper.paramwise_cfg.norm_decay_mult': (_decay_of_norms, 0.05),
    'model.backbone.out_norm': (_out_norms, False),
    'model.backbone.frozen_stages': (_frozen, -1),
    'model.data_preprocessor.pad_size_divisor': (_padding, 32),
    'train_dataloader.sampler.num_repeats': (_repeats, 3),
}


@pytest.mark.parametrize(('config', 'option', 'value'), _rows())
def test_option_does_what_the_table_says(config, option, value):
    find, ours = EFFECTS[option]
    assert find(_load(config)) == pytest.approx(ours) != value
    assert find(_load(config, {option: value})) == pytest.approx(value)


def test_the_table_has_every_choice():
    assert {row.values[1] for row in _rows()} == EFFECTS.keys()
