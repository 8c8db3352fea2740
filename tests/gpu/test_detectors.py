"""Detectors on the device: SMCA-DETR against its official code, and what mmcv computes there."""
import copy

import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention, RoIAlign, batched_nms
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from on_device import computing, precisions, relative_errors
from smca_models import build_detector, make_samples, run_fixture

from mmcontainer.engine.amp import keep_float32

pytestmark = pytest.mark.gpu

SMCA = [f'smca_tiny_type{i}__s1__7x9' for i in (1, 2, 3, 4)]
# Largest error of an entry over the standard deviation of its tensor.
SMCA_LIMITS = dict(float32=1e-3, tf32=5e-2)
SIZE = (128, 160)


@pytest.mark.parametrize('rounding', SMCA_LIMITS)
@pytest.mark.parametrize('name', SMCA)
def test_smca_is_the_official_model(name, rounding, device):
    with computing(rounding, device):
        fixture, found = run_fixture(name, dtype=torch.float32, device=device)
    for key in ('src', 'memory_valid', 'points', 'outputs_class', 'outputs_coord'):
        assert fixture.relative_error(key, found[key]) < SMCA_LIMITS[rounding], key


def _samples(device='cpu', classes=3):
    """Two images with three boxes each."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(2, 3, 2, generator=generator) * 60
    boxes = torch.cat([low, low + 20 + 40 * torch.rand(2, 3, 2, generator=generator)], dim=2)
    labels = torch.randint(classes, (2, 3), generator=generator)
    samples = make_samples([SIZE, (100, 160)], SIZE, boxes, labels)
    for sample in samples:
        sample.set_metainfo(dict(pad_shape=SIZE))
    return [sample.to(device) for sample in samples]


def _total(model, images, samples):
    losses = model(images, samples, mode='loss')
    return model.parse_losses(losses)[0]


def _compare_losses(model, images, device, classes, dtype):
    """Loss and gradients on the device, in every precision, against those of a type on the CPU."""
    on_cpu = copy.deepcopy(model).to(dtype)
    samples = _samples(classes=classes)
    for sample in samples:
        sample.gt_instances = InstanceData(bboxes=sample.gt_instances.bboxes.to(dtype),
                                           labels=sample.gt_instances.labels)
    expected = _total(on_cpu, images.to(dtype), samples)
    expected.backward()
    reference = torch.cat([p.grad.flatten() for p in on_cpu.parameters() if p.grad is not None])
    model = model.to(device)
    keep_float32(model)
    for name in precisions(device):
        model.zero_grad()
        with computing(name, device):
            loss = _total(model, images.to(device), _samples(device, classes))
        loss.backward()
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        exact = name == 'float32'
        assert loss.item() == pytest.approx(expected.item(), rel=1e-3 if exact else 0.1), name
        assert found.isfinite().all(), name
        if exact:
            assert relative_errors([found], [reference])[0] < 1e-2


def test_smca_trains(device):
    """Matching, losses and gradients of SMCA-DETR."""
    torch.manual_seed(0)
    model = build_detector(num_classes=3).train()
    model.init_weights()
    _compare_losses(model, torch.randn(2, 64, 4, 5), device, 3, torch.float64)


def test_retinanet_trains(device, tiny, repo_root):
    """The demo's detector: anchors, assignment and losses on the device."""
    torch.manual_seed(0)
    model = _demo_detector(repo_root, tiny)
    # MMDetection's anchors are float32, whatever the type of the model.
    _compare_losses(model.train(), torch.randn(2, 3, *SIZE), device, 4, torch.float32)


def _demo_detector(repo_root, tiny):
    init_default_scope('mmdet')
    cfg = Config.fromfile(repo_root / 'configs/retinanet/container_light_fpn_demo_shapes.py')
    if tiny:
        from mmcontainer.backbones import Container
        cfg.model.backbone.update(
            type='Container', arch=dict(Container.arch_settings['light'], depths=(1, 1, 1, 1)))
    cfg.model.backbone.norm_eval = True
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def test_retinanet_detects_the_same(device, tiny, repo_root):
    """Decoded and suppressed boxes; with random weights scores are close together, so few count."""
    torch.manual_seed(0)
    model = _demo_detector(repo_root, tiny).eval()
    model.test_cfg.score_thr = model.bbox_head.test_cfg.score_thr = 0.
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad(), computing('float32', device):
        expected = model(images, _samples(), mode='predict')
        found = model.to(device)(images.to(device), _samples(device), mode='predict')
    for one, other in zip(found, expected):
        one, other = one.pred_instances, other.pred_instances
        assert one.bboxes.device.type == device.type and len(one) == len(other) > 0
        torch.testing.assert_close(one.scores.cpu(), other.scores, rtol=1e-3, atol=1e-4)


def test_suppression_is_that_of_the_cpu(device):
    torch.manual_seed(0)
    low = torch.rand(200, 2) * 50
    boxes, scores = torch.cat([low, low + 5 + 20 * torch.rand(200, 2)], dim=1), torch.rand(200)
    labels = torch.randint(3, (200, ))
    options = dict(type='nms', iou_threshold=0.5)
    expected = batched_nms(boxes, scores, labels, options)[1]
    found = batched_nms(boxes.to(device), scores.to(device), labels.to(device), options)[1]
    assert 20 < len(expected) < 180
    assert torch.equal(found.cpu(), expected)


def test_regions_are_those_of_the_cpu(device):
    """RoIAlign of mmcv, and its gradient."""
    torch.manual_seed(0)
    maps, grad = torch.randn(2, 8, 20, 24), torch.randn(6, 8, 7, 7)
    low = torch.rand(6, 2) * 40
    rois = torch.cat([torch.tensor([[0.], [1.]] * 3), low, low + 8 + 30 * torch.rand(6, 2)], dim=1)
    results = []
    for place in ('cpu', device):
        x = maps.to(place, copy=True).requires_grad_()
        out = RoIAlign((7, 7), 0.25, 2)(x, rois.to(place))
        results.append((out, *torch.autograd.grad(out, x, grad.to(place))))
    assert max(relative_errors(*results[::-1])) < 1e-4


def test_deformable_attention_is_that_of_the_cpu(device):
    """The operator of Deformable DETR: a kernel on the GPU, PyTorch's operators on the CPU."""
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(64, num_heads=4, num_levels=1, dropout=0.,
                                              batch_first=True).eval()
    attention.init_weights()
    query, points = torch.randn(2, 30, 64), torch.rand(2, 30, 1, 2)
    value = torch.randn(2, 5 * 6, 64)
    results = []
    for place in ('cpu', device):
        with computing('float32', torch.device(place)):
            results.append([attention.to(place)(
                query.to(place), value=value.to(place), reference_points=points.to(place),
                spatial_shapes=torch.tensor([[5, 6]], device=place),
                level_start_index=torch.tensor([0], device=place))])
    assert max(relative_errors(*results[::-1])) < 1e-4
