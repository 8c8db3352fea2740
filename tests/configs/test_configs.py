"""Every detector's config loads, builds, and is what its file name and the papers say.

Those of classifiers have tests of their own (``test_imagenet_configs.py``). New files under
configs/ are picked up without a line being added.
"""
import re
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontainer.analysis.flops import count_flops
from mmcontainer.backbones import BaseBackbone, Container
from mmcontainer.paper import load_tables

NAME = re.compile(r'(?P<backbone>.+?)(?P<fpn>_fpn)?_(?P<schedule>\d+x|\d+e)_coco$')
DETECTORS = {'retinanet': 'RetinaNet', 'mask_rcnn': 'MaskRCNN'}
EPOCHS = {'1x': 12}
# The file name's backbone -> what stands in the config.
BACKBONES = {
    'container_light': dict(type='ContainerLight', arch='light'),
    'container_light_paper': dict(type='ContainerLight', arch='light-paper'),
    'container_base': dict(type='Container', arch='base', kv_stride=1),
    'r50': dict(type='ResNet', depth=50),
}


def _find_configs():
    paths = sorted((Path(__file__).resolve().parents[2] / 'configs').glob('*/*.py'))
    return [path for path in paths if path.parent.name not in ('_base_', 'imagenet')]


CONFIGS = _find_configs()
COCO = [path for path in CONFIGS if path.stem.endswith('_coco')]
CONTAINER_1X = [path for path in COCO if path.stem.startswith('container') and '_1x_' in path.stem]


def _id(path):
    return f'{path.parent.name}-{path.stem}'


def _build(cfg):
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def test_there_are_configs():
    assert {_id(path) for path in COCO} >= {
        f'{detector}-{backbone}_fpn_1x_coco' for detector in DETECTORS for backbone in BACKBONES}


@pytest.mark.parametrize('path', CONFIGS, ids=_id)
def test_config_builds(path):
    cfg = Config.fromfile(path)
    assert 'mmcontainer' in cfg.custom_imports.imports
    assert 'RNGStateHook' in [hook.type for hook in cfg.custom_hooks]
    model = _build(cfg)
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
    assert cfg.train_cfg.max_epochs == EPOCHS[name['schedule']]
    assert cfg.data_root == 'data/coco/'
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)


@pytest.mark.parametrize('path', COCO, ids=_id)
def test_images_are_resized_after_their_annotations_are_loaded(path):
    pipeline = [step.type for step in Config.fromfile(path).train_dataloader.dataset.pipeline]
    assert pipeline.index('LoadAnnotations') < pipeline.index('Resize')


@pytest.mark.parametrize('path', CONTAINER_1X, ids=_id)
def test_container_recipe_is_the_papers(path):
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
    stem = path.stem.replace('_fpn_1x_coco', '')
    assert backbone.init_cfg.checkpoint == f'checkpoints/{stem}_in1k.pth'
    model = _build(cfg).train()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert norms and not any(m.training or m.weight.requires_grad for m in norms)


def _flatten(value, prefix=''):
    items = (value.items() if isinstance(value, dict) else enumerate(value)
             if isinstance(value, (list, tuple)) else ())
    flat = {}
    for key, item in items:
        flat.update(_flatten(item, f'{prefix}.{key}'))
    return flat or {prefix: value}


@pytest.mark.parametrize('path', CONTAINER_1X, ids=_id)
def test_container_differs_from_its_r50_twin_only_where_it_should(path):
    ours = _flatten(Config.fromfile(path).to_dict())
    twin = _flatten(Config.fromfile(path.with_name('r50_fpn_1x_coco.py')).to_dict())
    assert ours['.model.neck.in_channels.0'] != twin['.model.neck.in_channels.0']
    different = {key for key in {*ours, *twin} if ours.get(key) != twin.get(key)}
    # `backbone` and `channels` are the names our fragment exports; MMDetection's RetinaNet config
    # brings settings for test-time augmentation, which is off.
    allowed = ('.model.backbone.', '.model.neck.in_channels.', '.optim_wrapper.', '.backbone.',
               '.channels.', '.tta_', '.img_scales.')
    assert not [key for key in different if not f'{key}.'.startswith(allowed)]


@pytest.mark.parametrize(('detector', 'config', 'row'), [
    ('retinanet', 'container_light_paper', 'container_light'),
    ('retinanet', 'r50', 'r50'),
    ('mask_rcnn', 'container_light_paper', 'container_light'),
    ('mask_rcnn', 'r50', 'r50'),
])
def test_sizes_equal_the_paper(repo_root, detector, config, row):
    published = load_tables()['detection_1x'][detector][row]
    model = _build(Config.fromfile(repo_root / f'configs/{detector}/{config}_fpn_1x_coco.py'))
    count = count_flops(model, (1, 3, 800, 1280))
    assert round(count.trainable_parameters / 1e6, 1) == published['params']
    # The paper's 180 G of Mask R-CNN R50 is another paper's count; by this one it is 260 G.
    flops = 260 if (detector, row) == ('mask_rcnn', 'r50') else published['flops']
    assert abs(count.flops / 1e9 - flops) <= 0.5


def test_exact_sizes_of_the_paper_model(repo_root):
    published = load_tables()['classification']['container_light']
    model = _build(Config.fromfile(
        repo_root / 'configs/retinanet/container_light_paper_fpn_1x_coco.py'))
    assert round(count_flops(model, (1, 3, 800, 1280)).parameters / 1e6, 2) == 29.74
    backbone = count_flops(Container('light-paper', final_norm=True), (1, 3, 224, 224))
    classifier = 512 * 1000 + 1000
    assert round((backbone.parameters + classifier) / 1e6, 3) == 20.008
    assert round((backbone.parameters + classifier) / 1e6, 1) == published['params']
    flops = (backbone.flops + 512 * 1000) / 1e9
    assert round(flops, 3) == 3.137 and flops < published['flops']


def test_exact_sizes_of_the_released_model(repo_root):
    published = load_tables()['classification']['container_light_released']
    count = count_flops(Container('light', final_norm=True), (1, 3, 224, 224))
    assert round((count.parameters + 513000) / 1e6, 1) == published['params']
    assert round(count.flops / 1e9, 2) == published['flops']


def test_metafiles_list_every_coco_config(repo_root):
    index = yaml.safe_load((repo_root / 'model-index.yml').read_text())
    listed = []
    for name in index['Import']:
        metafile = yaml.safe_load((repo_root / name).read_text())
        collections = {collection['Name'] for collection in metafile['Collections']}
        for model in metafile['Models']:
            assert model['In Collection'] in collections
            listed.append(repo_root / model['Config'])
    assert sorted(path for path in listed if path.parent.name != 'imagenet') == COCO
