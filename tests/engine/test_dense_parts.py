"""Neck and heads with another way of computing: same detections, and everything can go back."""
import copy
import pickle
import pkgutil
import time

import pytest
import torch
from built import deterministic
from mmcv.cnn import ConvModule
from mmcv.ops import ModulatedDeformConv2d
from mmdet.models import FPN, RetinaHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import DefaultScope
from torch import nn
from torch_versions import needs_torch

from mmcontainer.cli.configs import load_config
from mmcontainer.engine import dense_parts
from mmcontainer.engine.dense_parts import deploy_dense_parts
from mmcontainer.layers.memory_format import is_nhwc

SIZE = (128, 160)


@pytest.fixture(autouse=True)
def always_faster(monkeypatch):
    """And worth its while for the few channels and positions of tests."""
    monkeypatch.setattr(dense_parts, '_winograd_is_faster', lambda threads: True)
    monkeypatch.setattr(dense_parts, '_FEWEST_CHANNELS', 16)
    monkeypatch.setattr(dense_parts, '_FEWEST_POSITIONS', 20)


def _build(name, change=None):
    cfg = load_config(f'mmdet::{name}').model
    for part, values in (change or {}).items():
        cfg[part].update(values)
    cfg.backbone = dict(type='ResNet', depth=18)
    cfg.neck.update(in_channels=[64, 128, 256, 512], out_channels=16)
    for head in ('bbox_head', 'rpn_head'):
        if head in cfg:
            cfg[head].update(in_channels=16, feat_channels=16)
    if 'roi_head' in cfg:
        cfg.roi_head.bbox_roi_extractor.out_channels = 16
        cfg.roi_head.mask_roi_extractor.out_channels = 16
        cfg.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32)
        cfg.roi_head.mask_head.update(in_channels=16, conv_out_channels=16)
        cfg.test_cfg.rcnn.score_thr = 0.
    else:
        cfg.test_cfg.score_thr = 0.
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg).eval()


RETINANET = '_base_/models/retinanet_r50_fpn.py'
DETECTORS = [RETINANET, '_base_/models/mask-rcnn_r50_fpn.py']


@torch.no_grad()
def _predict(model):
    torch.manual_seed(1)
    sample = DetDataSample(metainfo=dict(
        img_shape=SIZE, ori_shape=SIZE, batch_input_shape=SIZE, pad_shape=SIZE,
        scale_factor=(1., 1.)))
    return model.predict(torch.randn(1, 3, *SIZE), [sample], rescale=False)[0].pred_instances


@pytest.mark.parametrize('name', DETECTORS)
def test_detections_are_equal(name, monkeypatch):
    model, calls = _build(name), []
    expected = _predict(model)
    deploy_dense_parts(model)
    convolve = dense_parts.winograd_conv2d
    monkeypatch.setattr(dense_parts, 'winograd_conv2d',
                        lambda *args: calls.append(1) or convolve(*args))
    found = _predict(model)
    assert calls and len(expected) > 10
    torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.labels, expected.labels)
    if name != RETINANET:
        assert (found.masks == expected.masks).float().mean() > 0.9999


@torch.no_grad()
def test_bfloat16_is_as_close_as_before():
    model, images = _build(RETINANET), torch.randn(1, 3, *SIZE)

    def flat(outs):
        return torch.cat([out.float().flatten() for level in outs for out in level])

    exact = flat(model(images))
    with torch.autocast('cpu', torch.bfloat16):
        before = flat(model(images))
        assert deploy_dense_parts(model)
        after = flat(model(images))
    assert (after - exact).std() < 1.1 * (before - exact).std() < 0.1 * exact.std()


@pytest.mark.parametrize('name', DETECTORS)
def test_maps_stay_in_channels_last_between_convolutions(name):
    model, formats = _build(name), {}

    def record(conv, args):
        formats[conv] = is_nhwc(args[0])

    def record_neck(neck, args, outs):
        formats[neck] = all(out.is_contiguous() for out in outs)

    for part in deploy_dense_parts(model):
        for inner in part.modules():
            if isinstance(inner, nn.Conv2d):
                inner.register_forward_pre_hook(record)
    model.neck.register_forward_hook(record_neck)
    _predict(model)
    assert len(formats) > 15 and all(formats.values())


def test_parts_with_gradients_are_what_they_were():
    model = _build(RETINANET)
    deploy_dense_parts(model)
    outs = model.neck([torch.randn(1, channels, 8, 9) for channels in (64, 128, 256, 512)])
    assert all(out.requires_grad and out.is_contiguous() for out in outs)


class OwnHead(RetinaHead):
    pass


@pytest.mark.parametrize('change', [
    dict(neck=dict(conv_cfg=dict(type='DCNv2', deform_groups=1))),
    dict(bbox_head=dict(conv_cfg=dict(type='DCNv2', deform_groups=1))),
    dict(bbox_head=dict(type=OwnHead))], ids=str)
def test_parts_that_may_ignore_strides_stay(change):
    model = _build(RETINANET, change)
    (part, ), kinds = change, (FPN, RetinaHead)
    deployed = [module for module in deploy_dense_parts(model) if isinstance(module, kinds)]
    assert getattr(model, part) not in deployed and len(deployed) == 1


def test_everything_can_go_back():
    model = _build(RETINANET)
    before = {module: set(vars(module)) for module in model.modules()}
    for module in deploy_dense_parts(model):
        del module.forward
    assert all(set(vars(module)) == names for module, names in before.items())


def test_nothing_is_chosen_by_the_clock_where_results_have_to_be_the_same():
    model = _build(RETINANET)
    with deterministic():
        assert deploy_dense_parts(model) == [model.neck, model.bbox_head]


def test_a_second_call_changes_nothing_again():
    model = _build(RETINANET)
    first = deploy_dense_parts(model)
    assert first and deploy_dense_parts(model) == []


def test_a_part_with_a_forward_of_the_users_stays():
    model = _build(RETINANET)
    conv = model.bbox_head.cls_convs[0].conv
    conv.forward = conv.forward
    assert not {model.bbox_head, conv} & set(deploy_dense_parts(model))


def test_the_backbone_is_left_alone():
    model = _build(RETINANET)
    assert not set(deploy_dense_parts(model)) & set(model.backbone.modules())


class TestConvolution:

    @pytest.fixture
    def conv(self):
        model = nn.Sequential(nn.Conv2d(16, 20, 3, padding=1))
        assert deploy_dense_parts(model) == [model[0]]
        return model[0]

    @pytest.fixture
    def x(self):
        return torch.randn(2, 16, 5, 6)

    @torch.no_grad()
    def test_memory_format_of_the_input(self, conv, x):
        # mmcv's RoIAlign would read a channels_last map as if it were contiguous.
        assert conv(x).is_contiguous()
        assert conv(x[..., 1:, 1:]).is_contiguous()
        x = x.contiguous(memory_format=torch.channels_last)
        assert conv(x).permute(0, 2, 3, 1).stride(3) == 1

    @torch.no_grad()
    def test_one_image_without_a_batch(self, conv, x):
        torch.testing.assert_close(conv(x[0]), conv(x)[0], rtol=1e-4, atol=1e-5)

    @needs_torch('2.4.0', 'a fused optimizer on a CPU')
    def test_fused_optimizers_are_noticed(self, conv, x):
        # They change weights without a note in the tensor.
        optimizer = torch.optim.SGD(conv.parameters(), 1., fused=True)
        with torch.no_grad():
            conv(x)
        conv(x).sum().backward()
        optimizer.step()
        with torch.no_grad():
            torch.testing.assert_close(conv(x), nn.Conv2d.forward(conv, x), rtol=1e-4, atol=1e-4)

    @torch.no_grad()
    def test_weights_may_change(self, conv, x):
        for change in (lambda: conv.weight.mul_(2), lambda: conv.load_state_dict(
                nn.Conv2d(16, 20, 3).state_dict()), lambda: setattr(
                    conv, 'weight', nn.Parameter(torch.randn(20, 16, 3, 3)))):
            conv(x)
            change()
            torch.testing.assert_close(conv(x), nn.Conv2d.forward(conv, x), rtol=1e-4, atol=1e-4)

    def test_where_it_does_not_apply(self, conv, x, monkeypatch):
        monkeypatch.setattr(dense_parts, 'winograd_conv2d', None)
        assert conv(x).requires_grad
        with torch.no_grad():
            conv(x[:, :, :3, :3])  # few positions
            with torch.autocast('cpu', torch.bfloat16):
                assert conv(x).dtype == torch.bfloat16
            assert conv.double()(x.double()).dtype == torch.float64

    @torch.no_grad()
    def test_copies_and_pickles_work(self, conv, x):
        expected = conv(x)
        for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
            assert torch.equal(other(x), expected)
            other.weight.zero_()
            other.bias.zero_()
            assert not other(x).any()
        assert torch.equal(conv(x), expected)

    def test_hooks_fire(self, conv, x):
        calls = []
        conv.register_forward_hook(lambda *args: calls.append(1))
        with torch.no_grad():
            conv(x)
        assert calls

    @pytest.mark.parametrize('kwargs', [
        dict(stride=2), dict(padding=0), dict(groups=2), dict(dilation=2),
        dict(padding_mode='reflect'), dict(kernel_size=1, padding=0)], ids=str)
    def test_other_convolutions_stay(self, kwargs):
        conv = nn.Conv2d(16, 16, **{**dict(kernel_size=3, padding=1), **kwargs})
        assert deploy_dense_parts(nn.Sequential(conv)) == []


@pytest.mark.parametrize('kind', ['ConvWS', 'ConvAWS', 'parametrised', 'weight norm'])
def test_convolutions_of_another_kind_stay(kind):
    if kind.startswith('Conv'):
        module = ConvModule(16, 16, 3, padding=1, conv_cfg=dict(type=kind))
    elif kind == 'parametrised':
        module = nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 16, 3, padding=1))
    else:
        module = nn.utils.weight_norm(nn.Conv2d(16, 16, 3, padding=1))
    assert deploy_dense_parts(nn.Sequential(module)) == []


@torch.no_grad()
def test_what_follows_may_ignore_strides():
    conv, deformable = nn.Conv2d(16, 16, 3, padding=1), ModulatedDeformConv2d(16, 4, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU()).eval()
    x = torch.randn(1, 16, 9, 8)
    offset, mask = torch.randn(1, 18, 9, 8), torch.rand(1, 9, 9, 8)
    expected = deformable(model(x), offset, mask)
    deploy_dense_parts(model)
    torch.testing.assert_close(deformable(model(x), offset, mask), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('slow', ['winograd_conv2d', 'F.conv2d'])
def test_the_faster_one_is_chosen(slow, monkeypatch):
    monkeypatch.undo()
    owner, _, name = f'mmcontainer.engine.dense_parts.{slow}'.rpartition('.')
    original = getattr(pkgutil.resolve_name(owner), name)

    def slowly(*args, **kwargs):
        time.sleep(0.3)
        return original(*args, **kwargs)

    monkeypatch.setattr(f'{owner}.{name}', slowly)
    dense_parts._winograd_is_faster.cache_clear()
    assert dense_parts._winograd_is_faster(torch.get_num_threads()) == (slow == 'F.conv2d')
    dense_parts._winograd_is_faster.cache_clear()
