"""The recipes of DETR, Deformable DETR and SMCA-DETR: paper, official code, DESIGN."""
from pathlib import Path

import pytest
import torch
from built import build_empty
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontainer.analysis.flops import count_flops
from mmcontainer.paper import load_tables

FOLDER = Path(__file__).resolve().parents[2] / 'configs' / 'detr'
DETECTORS = {'detr': 'DETR', 'deformable_detr': 'DeformableDETR', 'smca_detr': 'SMCADETR'}
BACKBONES = {'r50': 'ResNet', 'container_light': 'ContainerLight'}
NAMES = [f'{detector}_{backbone}' for detector in DETECTORS for backbone in BACKBONES]
# (queries, images per GPU, lr, decoder layers' hidden channels)
SETTINGS = {'detr': (100, 2, 1e-4, 2048), 'deformable_detr': (300, 4, 2e-4, 1024),
            'smca_detr': (300, 2, 1e-4, 2048)}


def _load(name):
    return Config.fromfile(FOLDER / f'{name}_50e_coco.py')


def _load_light(name):
    """With two layers in encoder and decoder: more of the same costs time only."""
    cfg = _load(name)
    cfg.model.encoder.num_layers = cfg.model.decoder.num_layers = 2
    return cfg


def _build(cfg):
    init_default_scope('mmdet')
    return MODELS.build(cfg.model)


def _split(name):
    backbone = next(b for b in BACKBONES if name.endswith(b))
    return name[:-len(backbone) - 1], backbone


def test_every_row_of_the_papers_table_has_a_config_and_no_other_file_is_there():
    found = {path.stem for path in FOLDER.glob('*.py')}
    table = load_tables()['detection_50e']
    rows = {f'{detector}_{backbone}_50e_coco' for detector in table for backbone in table[detector]}
    assert found == rows == {f'{name}_50e_coco' for name in NAMES}


@pytest.mark.parametrize('name', NAMES)
def test_model(name):
    (detector, backbone), cfg = _split(name), _load(name)
    assert cfg.custom_imports.imports[0] == 'mmcontainer'
    assert (cfg.model.type, cfg.model.backbone.type) == (DETECTORS[detector], BACKBONES[backbone])
    queries, batch_size, _, hidden = SETTINGS[detector]
    model = _build(cfg).train()
    assert model.num_queries == queries and len(model.encoder.layers) == 6
    assert len(model.decoder.layers) == 6
    assert model.decoder.layers[0].ffn.feedforward_channels == hidden
    assert cfg.train_dataloader.batch_size == batch_size
    assert cfg.auto_scale_lr == dict(base_batch_size=8 * batch_size)
    norms = [m for m in model.backbone.modules() if isinstance(m, _BatchNorm)]
    assert norms and not any(m.training or m.weight.requires_grad for m in norms)
    if backbone == 'container_light':
        assert cfg.model.backbone.init_cfg == dict(
            type='StrictPretrained', checkpoint='checkpoints/container_light_in1k.pth')
        assert 'depth' not in cfg.model.backbone
    # One map of stride 32, whose channels fit, comes out of neck and backbone.
    with torch.no_grad():
        maps = model.eval().extract_feat(torch.rand(1, 3, 96, 128))
    assert [tuple(m.shape) for m in maps] == [(1, 256, 3, 4)]
    dropouts = {m.p for m in (*model.encoder.modules(), *model.decoder.modules())
                if isinstance(m, torch.nn.Dropout)} - {0.}
    assert dropouts == {0.1}


@pytest.mark.parametrize('name', NAMES)
def test_optimizer_groups(name):
    (detector, _), cfg = _split(name), _load_light(name)
    lr = SETTINGS[detector][2]
    model = build_empty(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert type(wrapper.optimizer) is torch.optim.AdamW
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=0.1, norm_type=2)
    groups = {id(p): group for group in wrapper.optimizer.param_groups for p in group['params']}
    slow = ('backbone', 'sampling_offsets', 'reference_points')
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group = groups[id(parameter)]
        is_slow = key.startswith('backbone.') or (detector == 'deformable_detr' and any(
            part in key for part in slow[1:]))
        assert group['lr'] == pytest.approx(lr * (0.1 if is_slow else 1)), key
        assert group['weight_decay'] == 1e-4, key
    assert any(key.startswith('backbone.') and p.requires_grad
               for key, p in model.named_parameters())


@pytest.mark.parametrize('name', NAMES)
def test_schedule_and_augmentation(name):
    cfg = _load(name)
    assert (cfg.train_cfg.type, cfg.train_cfg.max_epochs) == ('EpochBasedTrainLoop', 50)
    steps, = cfg.param_scheduler
    assert (steps.type, steps.milestones, steps.gamma, steps.end, steps.by_epoch) == (
        'MultiStepLR', [40], 0.1, 50, True)
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert [step.type for step in pipeline] == [
        'LoadImageFromFile', 'LoadAnnotations', 'RandomFlip', 'RandomChoice', 'PackDetInputs']
    plain, cropped = pipeline[3].transforms
    sides = [(side, 1333) for side in range(480, 801, 32)]
    assert [step.type for step in plain] == ['RandomChoiceResize']
    assert [step.type for step in cropped] == [
        'RandomChoiceResize', 'RandomCrop', 'RandomChoiceResize']
    assert plain[0].scales == cropped[2].scales == sides
    assert [scale[0] for scale in cropped[0].scales] == [400, 500, 600]
    assert cropped[1].crop_size == (384, 600)


@pytest.mark.parametrize('name', NAMES)
def test_losses_and_matching(name):
    (detector, _), cfg = _split(name), _load_light(name)
    head = build_empty(cfg).bbox_head
    cls, box, iou = cfg.model.train_cfg.assigner.match_costs
    is_focal = detector != 'detr'
    assert head.loss_cls.use_sigmoid == is_focal
    assert head.loss_cls.loss_weight == (2 if is_focal else 1)
    assert (head.loss_bbox.loss_weight, head.loss_iou.loss_weight) == (5, 2)
    assert (cls.type, cls.weight) == (
        ('FocalLossCost', 2) if is_focal else ('ClassificationCost', 1))
    assert (box.type, box.weight, box.box_format) == ('BBoxL1Cost', 5, 'xywh')
    assert (iou.type, iou.weight, iou.iou_mode) == ('IoUCost', 2, 'giou')
    if is_focal:
        assert (head.loss_cls.alpha, head.loss_cls.gamma) == (0.25, 2)
        assert head.sync_cls_avg_factor


@pytest.mark.parametrize('detector', DETECTORS)
def test_the_backbone_is_the_only_difference_to_the_r50_twin(detector):
    ours, twin = (_load(f'{detector}_{backbone}').to_dict() for backbone in
                  ('container_light', 'r50'))
    for cfg in (ours, twin):
        del cfg['model']['backbone'], cfg['model']['neck']['in_channels']
        for exported in ('backbone', 'channels'):
            cfg.pop(exported, None)
    assert ours == twin


def test_smca_starts_as_the_official_code_does():
    """ARCHITECTURES: Xavier in the transformer, scales of 1, a prior of 0.01 in the classifier."""
    cfg = _load_light('smca_detr_r50')
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
    bound = 2048**-0.5  # PyTorch's default
    weight = fresh.neck.convs[0].conv.weight
    assert 0.99 * bound < weight.abs().max() <= bound
    assert 0.9 < fresh.query_embedding.weight.std() < 1.1


@pytest.mark.parametrize('detector', DETECTORS)
def test_trains_and_predicts(detector):
    cfg = _load_light(f'{detector}_container_light')
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


@pytest.mark.parametrize('detector', DETECTORS)
def test_flops_are_counted(detector):
    model = _build(_load_light(f'{detector}_container_light'))
    found = count_flops(model, (1, 3, 96, 128))
    # 12 cells, 512 to 256 channels, by hand (and 5 operations per value of Deformable's group norm)
    neck = 12 * 512 * 256 + (5 * 12 * 256 if detector == 'deformable_detr' else 0)
    assert found.parts['neck'] == neck
    assert found.parts['encoder'] > 0 and found.parts['decoder'] > 0
    ran = any('ran on the CPU' in note for note in found.notes)
    assert ran == (detector == 'deformable_detr')  # MMDetection's operator reads sizes
