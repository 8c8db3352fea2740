"""Every detector's config loads, builds, and is what its file name and the papers say.

Those of classifiers, segmenters and of the DETR family have tests of their own. New files under
configs/ are picked up without a line being added.
"""
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from built import build_empty
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontainer.analysis.flops import count_flops
from mmcontainer.backbones import BaseBackbone

NAME = re.compile(r'(?P<backbone>.+?)(?P<fpn>_fpn)?_(?P<schedule>\d+x|\d+e)_coco$')
DETECTORS = {'retinanet': 'RetinaNet', 'mask_rcnn': 'MaskRCNN', 'faster_rcnn': 'FasterRCNN',
             'cascade_rcnn': 'CascadeRCNN', 'cascade_mask_rcnn': 'CascadeRCNN'}
EPOCHS = {'1x': 12}
ITERATIONS = {'1x': 90000}
# The file name's backbone -> what stands in the config.
BACKBONES = {
    'container_light': dict(type='ContainerLight', arch='light'),
    'container_light_paper': dict(type='ContainerLight', arch='light-paper'),
    'container_base': dict(type='Container', arch='base', kv_stride=1),
    'r50': dict(type='ResNet', depth=50),
    **{arch.replace('-', '_'): dict(type='CoTNet', arch=arch) for arch in (
        'cotnet-50', 'cotnext-50', 'se-cotnetd-50', 'cotnet-101', 'cotnext-101',
        'se-cotnetd-101')},
    'cotnet_50_frozen_bn': dict(type='CoTNet', arch='cotnet-50'),
    'coatnet_0': dict(type='CoAtNet', arch='coatnet-0'),
}
COTNETS = tuple(name for name in BACKBONES if 'cotne' in name and 'frozen' not in name)
CONTAINERS = ('container_light', 'container_light_paper', 'container_base', 'r50')
EXPECTED = {
    'retinanet': (*CONTAINERS, 'cotnet_50', 'coatnet_0'),
    'mask_rcnn': (*CONTAINERS, *COTNETS, 'cotnet_50_frozen_bn', 'coatnet_0'),
    'faster_rcnn': COTNETS,
    'cascade_rcnn': COTNETS,
    'cascade_mask_rcnn': COTNETS,
}


def _find_configs():
    paths = sorted((Path(__file__).resolve().parents[2] / 'configs').glob('*/*.py'))
    others = ('_base_', 'imagenet', 'imagenette', 'bccd', 'voc', 'detr', 'dino', 'fpn', 'upernet')
    return [path for path in paths if path.parent.name not in others]


CONFIGS = _find_configs()
COCO = [path for path in CONFIGS if path.stem.endswith('_coco')]
# In the recipe of the Container paper, and in the official one of CoTNet.
ADAMW_1X = [path for path in COCO if path.stem.startswith(('container', 'coatnet'))
            or path.stem.startswith('cotnet_50_frozen_bn')
            or (path.parent.name, path.stem) == ('retinanet', 'cotnet_50_fpn_1x_coco')]
COTNET_1X = [path for path in COCO if 'cotne' in path.stem and path not in ADAMW_1X]


def _id(path):
    return f'{path.parent.name}-{path.stem}'


@cache
def _empty(path):
    return build_empty(Config.fromfile(path))


def _build(cfg):
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def test_there_are_configs():
    assert {_id(path) for path in COCO} >= {
        f'{detector}-{backbone}_fpn_1x_coco'
        for detector, backbones in EXPECTED.items() for backbone in backbones}
    assert len(COTNET_1X) == 4 * 6


@pytest.mark.parametrize('path', CONFIGS, ids=_id)
def test_config_builds(path):
    cfg = Config.fromfile(path)
    assert 'mmcontainer' in cfg.custom_imports.imports
    assert 'RNGStateHook' in [hook.type for hook in cfg.custom_hooks]
    model = _empty(path)
    channels = cfg.model.neck.in_channels
    if isinstance(model.backbone, BaseBackbone):
        assert list(model.backbone.arch['embed_dims']) == channels
        assert 'depth' not in cfg.model.backbone, 'arguments of the ResNet leak in'


@pytest.mark.parametrize('path', COCO, ids=_id)
def test_config_is_what_its_name_says(path):
    cfg, name = Config.fromfile(path), NAME.match(path.stem)
    assert name, f'{path.name} is not named {{backbone}}[_fpn]_{{schedule}}_coco.py'
    assert cfg.model.type == DETECTORS[path.parent.name]
    for key, value in BACKBONES[name['backbone']].items():
        assert cfg.model.backbone[key] == value
    assert (cfg.model.neck.type == 'FPN') == bool(name['fpn'])
    if path in COTNET_1X:
        assert cfg.train_cfg.max_iters == ITERATIONS[name['schedule']]
    else:
        assert cfg.train_cfg.max_epochs == EPOCHS[name['schedule']]
    assert cfg.data_root == 'data/coco/'
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)


@pytest.mark.parametrize('path', COCO, ids=_id)
def test_images_are_resized_after_their_annotations_are_loaded(path):
    pipeline = [step.type for step in Config.fromfile(path).train_dataloader.dataset.pipeline]
    resize, = (index for index, name in enumerate(pipeline) if name.endswith('Resize'))
    assert pipeline.index('LoadAnnotations') < resize


@pytest.mark.parametrize('path', ADAMW_1X, ids=_id)
def test_adamw_recipe_is_the_container_papers(path):
    cfg = Config.fromfile(path)
    # No gradient clipping, and no exception from weight decay.
    assert cfg.optim_wrapper == dict(
        _scope_='mmdet', type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05))
    warmup, steps = cfg.param_scheduler
    assert (warmup.type, warmup.by_epoch, warmup.end) == ('LinearLR', False, 500)
    assert (steps.type, steps.by_epoch, steps.milestones, steps.gamma) == (
        'MultiStepLR', True, [8, 11], 0.1)
    backbone = cfg.model.backbone
    assert backbone.drop_path_rate == 0.1
    assert backbone.init_cfg.type == 'StrictPretrained'
    stem = path.stem.replace('_fpn_1x_coco', '').replace('_frozen_bn', '')
    assert backbone.init_cfg.checkpoint == f'checkpoints/{stem}_in1k.pth'
    model = _empty(path).train()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert norms and not any(m.training or m.weight.requires_grad for m in norms)


def _flatten(value, prefix=''):
    items = (value.items() if isinstance(value, dict) else enumerate(value)
             if isinstance(value, (list, tuple)) else ())
    flat = {}
    for key, item in items:
        flat.update(_flatten(item, f'{prefix}.{key}'))
    return flat or {prefix: value}


@pytest.mark.parametrize('path', ADAMW_1X, ids=_id)
def test_adamw_config_differs_from_its_r50_twin_only_where_it_should(path):
    ours = _flatten(Config.fromfile(path).to_dict())
    twin = _flatten(Config.fromfile(path.with_name('r50_fpn_1x_coco.py')).to_dict())
    assert ours['.model.backbone.type'] != twin['.model.backbone.type']
    different = {key for key in {*ours, *twin} if ours.get(key) != twin.get(key)}
    # `backbone` and `channels` are the names our fragment exports; MMDetection's RetinaNet config
    # brings settings for test-time augmentation, which is off.
    allowed = ('.model.backbone.', '.model.neck.in_channels.', '.optim_wrapper.', '.backbone.',
               '.channels.', '.tta_', '.img_scales.')
    assert not [key for key in different if not f'{key}.'.startswith(allowed)]


@pytest.mark.parametrize('path', COTNET_1X, ids=_id)
def test_cotnet_schedule_and_data_are_the_official_ones(path):
    """What the values of ``test_cotnet_official.py`` do not say."""
    cfg = Config.fromfile(path)
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    warmup, steps = cfg.param_scheduler
    assert (warmup.type, warmup.by_epoch, warmup.begin, warmup.end, warmup.start_factor) == (
        'LinearLR', False, 0, 1000, 0.001)
    assert (steps.type, steps.by_epoch, steps.milestones, steps.gamma) == (
        'MultiStepLR', False, [60000, 80000], 0.1)
    assert dict(type='PreciseBNHook', num_iters=200) in cfg.custom_hooks
    assert cfg.train_dataloader.sampler.type == 'InfiniteSampler'
    pipeline = cfg.train_dataloader.dataset.pipeline
    load, = (step for step in pipeline if step.type == 'LoadAnnotations')
    assert load.get('with_mask', False) == ('mask' in path.parent.name)
    backbone = cfg.model.backbone
    name = path.stem.replace('_fpn_1x_coco', '')
    assert backbone.init_cfg == dict(
        type='StrictPretrained', checkpoint=f'checkpoints/{name}_in1k.pth')
    assert backbone.get('drop_path_rate', 0) == 0


@pytest.mark.parametrize('path', COTNET_1X, ids=_id)
def test_cotnet_norms_losses_and_optimizer_are_the_official_ones(path):
    cfg = Config.fromfile(path)
    model = _empty(path).train()
    assert not any(isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm)
                   for m in model.modules())
    # Behind every convolution but those that predict, the one of the RPN, and the upsampling.
    box_heads = model.roi_head.bbox_head
    box_heads = [box_heads] if not isinstance(box_heads, nn.ModuleList) else box_heads
    convs = [*model.neck.lateral_convs, *model.neck.fpn_convs,
             *(conv for head in box_heads for conv in head.shared_convs)]
    stages = len(box_heads)
    assert len(convs) == 8 + 4 * stages and stages == (3 if 'cascade' in path.parent.name else 1)
    if 'mask' in path.parent.name:
        convs += model.roi_head.mask_head.convs  # one head, in the cascade too
        assert len(convs) == 8 + 4 * stages + 4
    assert all(isinstance(conv.norm, nn.SyncBatchNorm) for conv in convs)
    assert all(len(head.shared_fcs) == 1 for head in box_heads)
    assert {type(m).__name__ for m in model.modules() if 'L1Loss' in type(m).__name__} == {'L1Loss'}
    backbone = model.backbone
    frozen = [*backbone.stem_modules(), backbone.layer1]
    frozen = {id(p) for module in frozen for p in module.parameters()}
    assert frozen == {id(p) for p in model.parameters() if not p.requires_grad}
    norms = [m for m in model.modules() if isinstance(m, (_BatchNorm, nn.GroupNorm))]
    in_norms = {id(p) for norm in norms for p in norm.parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    trained = {id(p): group for group in groups for p in group['params'] if p.requires_grad}
    assert trained.keys() == {id(p) for p in model.parameters()} - frozen
    for parameter, group in trained.items():
        assert (group['lr'], group['momentum'], group['nesterov']) == (0.02, 0.9, False)
        assert group['weight_decay'] == (0 if parameter in in_norms else 1e-4)


def _documented_sizes(repo_root):
    """{(detector, backbone): (parameters in M, multiply-adds in G)} of docs/cotnet.md."""
    lines = (repo_root / 'docs/cotnet.md').read_text().splitlines()
    start = lines.index(next(line for line in lines if line.startswith('| backbone | Faster')))
    columns = [cell.strip().lower().replace('-', '').replace(' ', '_')
               for cell in lines[start].strip('|').split('|')[1:]]
    sizes = {}
    for line in lines[start + 2:start + 8]:
        name, *cells = (cell.strip() for cell in line.strip('|').split('|'))
        assert len(cells) == len(columns)
        for column, cell in zip(columns, cells):
            sizes[column, name.lower().replace('-', '_')] = tuple(map(float, cell.split(', ')))
    return sizes


@pytest.mark.parametrize('detector', ['faster_rcnn', 'cascade_rcnn', 'mask_rcnn',
                                      'cascade_mask_rcnn'])
def test_documented_sizes_are_measured_ones(repo_root, detector):
    documented = _documented_sizes(repo_root)
    assert len(documented) == 24
    for name in COTNETS:
        model = _empty(repo_root / f'configs/{detector}/{name}_fpn_1x_coco.py')
        parameters, flops = documented[detector, name]
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == parameters
        if name in ('cotnet_50', 'se_cotnetd_50'):
            assert abs(count_flops(model, (1, 3, 800, 1280)).flops / 1e9 - flops) <= 1.5


def test_cotnet_detector_with_every_part_trains(repo_root):
    """Cascade Mask R-CNN on two small images: gradients reach all that is trained."""
    cfg = Config.fromfile(repo_root / 'configs/cascade_mask_rcnn/cotnet_50_fpn_1x_coco.py')
    cfg.model.train_cfg.rcnn[0].sampler.num = 16
    torch.manual_seed(0)
    model = _build(cfg).train()
    inputs = demo_mm_inputs(2, [[3, 96, 128], [3, 128, 96]], num_items=[2, 3], with_mask=True)
    data = model.data_preprocessor(inputs, True)
    losses = model(**data, mode='loss')
    total = sum(value.sum() if torch.is_tensor(value) else sum(value)
                for name, value in losses.items() if 'loss' in name)
    total.backward()
    assert torch.isfinite(total)
    assert {name for name in losses if 'mask' in name} == {'loss_mask'}
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(p.grad is None for p in model.backbone.layer1.parameters())


def test_metafile_lists_every_collection(repo_root):
    index = yaml.safe_load((repo_root / 'model-index.yml').read_text())
    metafile, = [yaml.safe_load((repo_root / name).read_text()) for name in index['Import']]
    collections = {collection['Name'] for collection in metafile['Collections']}
    assert {model['In Collection'] for model in metafile['Models']} == collections
