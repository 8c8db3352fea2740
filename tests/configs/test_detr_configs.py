"""The recipes of DETR, Deformable DETR and both SMCA-DETRs against those of the published runs.

What is expected stands in official_detr.yaml, with its sources.
"""
import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from built import build_empty
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontainer.analysis.flops import count_flops
from mmcontainer.paper import load_tables

FOLDER = Path(__file__).resolve().parents[2] / 'configs' / 'detr'
OFFICIAL = yaml.safe_load(Path(__file__).with_name('official_detr.yaml').read_text())['recipes']
DETECTORS = {'detr': 'DETR', 'detr_default': 'DETR', 'deformable_detr': 'DeformableDETR',
             'smca_detr': 'SMCADETR', 'multi_scale_smca_detr': 'MultiScaleSMCADETR'}
MULTI_SCALE = ('multi_scale_smca_detr', )
BACKBONES = {'r50': 'ResNet', 'container_light': 'ContainerLight'}
ROWS = [(recipe, backbone) for recipe in OFFICIAL for backbone in BACKBONES]
each_config = pytest.mark.parametrize(('recipe', 'backbone'), ROWS, ids='-'.join)


def _stem(recipe, backbone):
    detector = recipe.removesuffix('_default')
    return f'{detector}_{backbone}{recipe[len(detector):]}_50e_coco'


def _load(recipe, backbone):
    return Config.fromfile(FOLDER / f'{_stem(recipe, backbone)}.py')


def _load_light(recipe, backbone):
    """With two layers in encoder and decoder: more of the same costs time only."""
    cfg = _load(recipe, backbone)
    cfg.model.encoder.num_layers = cfg.model.decoder.num_layers = 2
    return cfg


def _build(cfg):
    init_default_scope('mmdet')
    return MODELS.build(cfg.model)


def test_every_row_of_the_papers_table_has_a_config_and_no_other_file_is_there():
    found = {path.stem for path in FOLDER.glob('*.py')}
    table = load_tables()['detection_50e']
    rows = {f'{detector}_{backbone}_50e_coco' for detector in table for backbone in table[detector]}
    # Beside the table there are DETR's own recipe and the multi-scale SMCA-DETR.
    assert found == rows | {f'{name}_50e_coco' for backbone in BACKBONES for name in (
        f'detr_{backbone}_default', f'multi_scale_smca_detr_{backbone}')}
    assert found == {_stem(*row) for row in ROWS}


@each_config
def test_model(recipe, backbone):
    cfg, official = _load(recipe, backbone), OFFICIAL[recipe]
    assert cfg.custom_imports.imports[0] == 'mmcontainer'
    assert (cfg.model.type, cfg.model.backbone.type) == (DETECTORS[recipe], BACKBONES[backbone])
    model = _build(cfg).train()
    assert model.num_queries == official['queries'] and len(model.encoder.layers) == 6
    assert len(model.decoder.layers) == 6
    assert model.decoder.layers[0].ffn.feedforward_channels == official['hidden']
    assert cfg.model.test_cfg.max_per_img == official['max_detections']
    norms = [m for m in model.backbone.modules() if isinstance(m, _BatchNorm)]
    assert norms and not any(m.training or m.weight.requires_grad for m in norms)
    if backbone == 'container_light':
        assert cfg.model.backbone.init_cfg == dict(
            type='StrictPretrained', checkpoint='checkpoints/container_light_in1k.pth')
        assert 'depth' not in cfg.model.backbone
    # Maps whose channels fit come out of neck and backbone: one of stride 32, or four.
    with torch.no_grad():
        maps = model.eval().extract_feat(torch.rand(1, 3, 96, 128))
    sizes = [(12, 16), (6, 8), (3, 4), (2, 2)] if recipe in MULTI_SCALE else [(3, 4)]
    assert [tuple(m.shape) for m in maps] == [(1, 256, *size) for size in sizes]
    dropouts = {m.p for m in (*model.encoder.modules(), *model.decoder.modules())
                if isinstance(m, torch.nn.Dropout)} - {0.}
    assert dropouts == {official['dropout']}


@each_config
def test_projection_starts_as_the_official_one(recipe, backbone):
    cfg = _load_light(recipe, backbone)
    cfg.model.backbone.init_cfg = None
    model = _build(cfg)
    torch.manual_seed(0)
    model.neck.init_weights()
    convs = [m for m in model.neck.modules() if isinstance(m, torch.nn.Conv2d)]
    assert OFFICIAL[recipe]['projection']['bias'] and [conv.kernel_size[0] for conv in convs] == (
        [1, 1, 1, 3] if recipe in MULTI_SCALE else [1])
    for conv in convs:
        inputs, outputs = conv.in_channels * conv.kernel_size[0]**2, conv.out_channels
        if OFFICIAL[recipe]['projection']['init'] == 'pytorch':
            # Kaiming's uniform rule with a = sqrt(5), and the same bound for the bias.
            bound = inputs**-0.5
            assert 0.9 * bound < conv.bias.abs().max() <= bound
        else:
            bound = (6 / (inputs + outputs))**0.5
            assert (conv.bias == 0).all()
        assert 0.99 * bound < conv.weight.abs().max() <= bound


@each_config
def test_optimizer_groups(recipe, backbone):
    cfg, official = _load_light(recipe, backbone), OFFICIAL[recipe]
    assert cfg.train_dataloader.batch_size == official['images_per_gpu']
    assert cfg.auto_scale_lr == dict(base_batch_size=official['gpus'] * official['images_per_gpu'])
    model = build_empty(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert type(wrapper.optimizer) is torch.optim.AdamW
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=official['clip'], norm_type=2)
    groups = {id(p): group for group in wrapper.optimizer.param_groups for p in group['params']}
    seen = set()
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group = groups[id(parameter)]
        part = next((part for part in official['slow'] if part in key), None)
        seen.add(part)
        rate = official['lr'] * official['slow'].get(part, 1)
        assert group['lr'] == pytest.approx(rate), key
        assert group['weight_decay'] == official['weight_decay'], key
    assert seen == {*official['slow'], None}


@each_config
def test_schedule(recipe, backbone):
    cfg, official = _load(recipe, backbone), OFFICIAL[recipe]
    assert (cfg.train_cfg.type, cfg.train_cfg.max_epochs) == (
        'EpochBasedTrainLoop', official['epochs'])
    steps, = cfg.param_scheduler
    assert (steps.type, steps.milestones, steps.gamma, steps.end, steps.by_epoch) == (
        'MultiStepLR', [official['drop_after']], 0.1, official['epochs'], True)


def _resizes(steps):
    """All resizing steps of a pipeline, also inside of a choice of pipelines."""
    for step in steps:
        if step.type == 'RandomChoice':
            for branch in step.transforms:
                yield from _resizes(branch)
        elif step.type.endswith('Resize'):
            yield step


@each_config
def test_augmentation(recipe, backbone):
    cfg, data = _load(recipe, backbone), OFFICIAL[recipe]['data']
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert sorted(step.type for step in pipeline if not step.type.startswith('RandomChoice')) == [
        'LoadAnnotations', 'LoadImageFromFile', 'PackDetInputs', 'RandomFlip']
    flip, = (step for step in pipeline if step.type == 'RandomFlip')
    assert flip.prob == 0.5
    names = [step.type for step in pipeline]
    step = next(step for step in pipeline if step.type.startswith('RandomChoice'))
    assert names.index('LoadAnnotations') < names.index(step.type)
    sizes = [sorted(map(sorted, resize.scales)) for resize in _resizes(pipeline)]
    expected = [[side, data['long_side']] for side in data['short_sides']]
    if data['crop'] is None:
        assert step.type == 'RandomChoiceResize' and sizes == [expected]
        return
    plain, cropped = step.transforms
    assert 'prob' not in step, 'both with the same probability'
    assert [s.type for s in plain] == ['RandomChoiceResize']
    assert [s.type for s in cropped] == ['RandomChoiceResize', 'RandomCrop', 'RandomChoiceResize']
    assert sizes[0] == sizes[2] == expected
    # No image of COCO reaches a long side that would matter.
    assert [(side, side * 7 <= long) for side, long in sizes[1]] == [
        (side, True) for side in data['crop']['sides_before']]
    assert (cropped[1].crop_type, cropped[1].allow_negative_crop) == ('absolute_range', True)
    assert list(cropped[1].crop_size) == data['crop']['range']


@each_config
def test_images_and_batches(recipe, backbone):
    cfg, data = _load(recipe, backbone), OFFICIAL[recipe]['data']
    for loader, prefix in ((cfg.train_dataloader, ''), (cfg.val_dataloader, 'test_'),
                           (cfg.test_dataloader, 'test_')):
        load, *_ = pipeline = loader.dataset.pipeline
        assert load.get('imdecode_backend', 'cv2') == data[f'{prefix}decoder']
        resizes = list(_resizes(pipeline))
        assert {step.get('backend', 'cv2') for step in resizes} == {data[f'{prefix}resize']}
        assert all(step.keep_ratio and step.get('interpolation', 'bilinear') == 'bilinear'
                   for step in resizes)
    loader = cfg.train_dataloader
    assert loader.dataset.filter_cfg == dict(
        filter_empty_gt=data['filter_empty'], min_size=data['min_size'])
    assert (loader.batch_sampler is not None) == data['by_aspect_ratio']
    assert loader.get('drop_last', False) == data['drop_last']
    assert cfg.model.data_preprocessor.pad_size_divisor == data['pad_divisor']
    assert cfg.val_dataloader.dataset.pipeline[1].scale == (1333, 800)


def test_images_are_pillows(tmp_path):
    """What the pipeline gives is what PIL resizes with antialiasing; OpenCV differs by a lot."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (1600, 1700, 3), dtype=np.uint8))
    picture.save(tmp_path / 'x.png')
    init_default_scope('mmdet')
    given = dict(img_path=str(tmp_path / 'x.png'), img_id=0, height=1600, width=1700, instances=[])
    pixels = {}
    for recipe in ('detr', 'smca_detr'):
        steps = _load(recipe, 'r50').test_dataloader.dataset.pipeline
        pixels[recipe] = Compose(steps)(copy.deepcopy(given))['inputs'].permute(1, 2, 0).numpy()
    expected = np.asarray(picture.resize((850, 800), Image.Resampling.BILINEAR))[..., ::-1]
    assert np.array_equal(pixels['smca_detr'], expected)
    assert np.abs(pixels['detr'].astype(int) - expected).mean() > 5


@each_config
def test_losses_and_matching(recipe, backbone):
    cfg, official = _load_light(recipe, backbone), OFFICIAL[recipe]
    head, weights, costs = build_empty(cfg).bbox_head, official['loss_weights'], official['costs']
    cls, box, iou = cfg.model.train_cfg.assigner.match_costs
    is_focal = official['focal']
    assert head.loss_cls.use_sigmoid == is_focal
    assert (head.loss_cls.loss_weight, head.loss_bbox.loss_weight, head.loss_iou.loss_weight) == (
        weights['cls'], weights['box'], weights['iou'])
    assert (cls.type, cls.weight) == (
        'FocalLossCost' if is_focal else 'ClassificationCost', costs['cls'])
    assert (box.type, box.weight, box.box_format) == ('BBoxL1Cost', costs['box'], 'xywh')
    assert (iou.type, iou.weight, iou.iou_mode) == ('IoUCost', costs['iou'], 'giou')
    if is_focal:
        assert (head.loss_cls.alpha, head.loss_cls.gamma) == (0.25, 2)
        assert head.sync_cls_avg_factor


@pytest.mark.parametrize('recipe', DETECTORS)
def test_the_backbone_is_the_only_difference_to_the_r50_twin(recipe):
    ours, twin = (_load(recipe, backbone).to_dict() for backbone in ('container_light', 'r50'))
    for cfg in (ours, twin):
        del cfg['model']['backbone'], cfg['model']['neck']['in_channels']
        for exported in ('backbone', 'channels'):
            cfg.pop(exported, None)
    assert ours == twin


def test_smca_starts_as_the_official_code_does():
    """ARCHITECTURES: Xavier in the transformer, scales of 1, a prior of 0.01 in the classifier."""
    cfg = _load_light('smca_detr', 'r50')
    cfg.model.backbone.init_cfg = None
    fresh = _build(cfg)
    torch.manual_seed(0)
    fresh.init_weights()
    layer = fresh.decoder.layers[0]
    assert (layer.scale.weight == 0).all() and (layer.scale.bias == 1).all()
    assert layer.cross_attn.smooth == 8 and layer.num_scales == 2
    for parameter in (layer.offset.weight, layer.ffn.layers[1].weight,
                      layer.cross_attn.attn.in_proj_weight,
                      fresh.decoder.ref_point_head.layers[2].weight):
        bound = (6 / sum(parameter.shape))**0.5
        assert 0.9 * bound < parameter.abs().max() <= bound
    for attention in (layer.self_attn.attn, layer.cross_attn.attn):
        assert (attention.in_proj_bias == 0).all() and (attention.out_proj.bias == 0).all()
    torch.testing.assert_close(fresh.bbox_head.fc_cls.bias, torch.full((80, ), -4.59512))
    assert 0.9 < fresh.query_embedding.weight.std() < 1.1


def test_multi_scale_smca_starts_as_the_official_code_does():
    """SMCA_MULTI_SCALE, section 7: Xavier in encoder and decoder, PyTorch's defaults elsewhere."""
    cfg = _load_light('multi_scale_smca_detr', 'r50')
    cfg.model.backbone.init_cfg = None
    fresh = _build(cfg)
    torch.manual_seed(0)
    fresh.init_weights()
    layer, decoder_layer = fresh.encoder.layers[0], fresh.decoder.layers[1]
    depthwise = [conv for convs in (layer.level_convs, layer.down_convs, layer.up_convs)
                 for conv in convs.values()]
    assert len(depthwise) == 6 and all(conv.kernel_size == (7, 7) for conv in depthwise)
    bounds = {conv.weight: (6 / (257 * 49))**0.5 for conv in depthwise}
    bounds.update({conv.bias: 1 / 7 for conv in depthwise})
    bounds.update({layer.conv_in.weight: (6 / 512)**0.5, layer.conv_in.bias: 1 / 16,
                   decoder_layer.group_weight.weight: (6 / 260)**0.5,
                   decoder_layer.group_weight.bias: 1 / 16,
                   decoder_layer.offset.weight: (6 / 320)**0.5,
                   fresh.reduce.weight: 1 / 48, fresh.reduce.bias: 1 / 48})
    for parameter, bound in bounds.items():
        # A few values need not come close to their bound.
        assert (0.9 if len(parameter) > 4 else 0.05) * bound < parameter.abs().max() <= bound
    assert (decoder_layer.scale.weight == 0).all() and (decoder_layer.scale.bias == 1).all()
    assert 0.9 < fresh.level_embedding.weight.std() < 1.1
    torch.testing.assert_close(fresh.bbox_head.fc_cls.bias, torch.full((80, ), -4.59512))


def test_multi_scale_smca_has_the_official_number_of_parameters():
    """40 763 514 trained ones in the log of the run, of which the classifier has 92 rows."""
    model = build_empty(_load('multi_scale_smca_detr', 'r50'))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 40_763_514 - 12 * 257


@pytest.mark.parametrize('recipe', DETECTORS)
def test_trains_and_predicts(recipe):
    cfg = _load_light(recipe, 'container_light')
    cfg.model.backbone.update(init_cfg=None)
    model = _build(cfg)
    model.init_weights()  # MMDetection's constructor leaves the embedding of levels as memory is
    batch = demo_mm_inputs(2, [[3, 64, 96], [3, 96, 64]], num_items=[3, 0], num_classes=80)
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode='loss')
    total = sum(loss.sum() for key, loss in losses.items() if 'loss' in key)
    total.backward()
    assert total.isfinite()
    unused = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    with torch.no_grad():
        results = model.eval()(**model.data_preprocessor(batch, False), mode='predict')
    expected = cfg.model.test_cfg.max_per_img
    assert [len(result.pred_instances) for result in results] == [expected] * 2


@pytest.mark.parametrize('detector', [
    'detr', 'deformable_detr', 'smca_detr', 'multi_scale_smca_detr'])
def test_flops_are_counted(detector):
    model = _build(_load_light(detector, 'container_light'))
    found = count_flops(model, (1, 3, 96, 128))
    # 12 cells, 512 to 256 channels, by hand (and 5 operations per value of Deformable's group norm)
    neck = 12 * 512 * 256 + (5 * 12 * 256 if detector == 'deformable_detr' else 0)
    if detector in MULTI_SCALE:
        neck += (192 * 128 + 48 * 320 + 4 * 9 * 512) * 256
    assert found.parts['neck'] == neck
    assert found.parts['encoder'] > 0 and found.parts['decoder'] > 0
    ran = any('ran on the CPU' in note for note in found.notes)
    assert ran == (detector == 'deformable_detr')  # MMDetection's operator reads sizes
