"""Parts that stay float32, mixed precision on the CPU, and types that a machine lacks."""
import copy
import pickle

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, DefaultScope
from mmengine.structures import InstanceData
from torch import nn

from mmcontainer.cli.config_changes import apply_amp, check_precision
from mmcontainer.cli.configs import find_config, load_config
from mmcontainer.engine.amp import CPUAmpOptimWrapper, keep_float32, use_bfloat16
from mmcontainer.errors import UserError
from mmcontainer.torch_compat import autocast_dtype


def make_config(**more):
    return Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01), **more)))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Test GPU')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (8, 0))


def test_fp16_on_the_cpu_is_refused(no_gpu):
    with pytest.raises(UserError, match='--amp fp16 needs a CUDA GPU.*--amp bf16'):
        apply_amp(make_config(), 'fp16')


def test_bf16_on_an_old_gpu_is_refused(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (7, 5))
    with pytest.raises(UserError, match='Test GPU has no bfloat16'):
        apply_amp(make_config(), 'bf16')


def test_foreign_optimizer_wrapper_is_refused(no_gpu):
    with pytest.raises(UserError, match='DeepSpeedOptimWrapper'):
        apply_amp(make_config(type='DeepSpeedOptimWrapper'), 'bf16')


@pytest.mark.parametrize('kind', [
    'AmpOptimWrapper', 'mmengine.optim.AmpOptimWrapper', AmpOptimWrapper])
def test_what_a_config_asks_for_needs_a_gpu(kind, no_gpu):
    cfg = make_config(type=kind, loss_scale='dynamic')
    with pytest.raises(UserError, match='AmpOptimWrapper, which needs a CUDA GPU.*--amp bf16'):
        check_precision(cfg)
    apply_amp(cfg, 'bf16')  # a class is no other kind of wrapper than its name
    check_precision(cfg)
    assert cfg.optim_wrapper.type == 'CPUAmpOptimWrapper'


def test_on_a_gpu_it_is_the_one_of_mmengine(gpu):
    cfg = make_config(type='OptimWrapper', clip_grad=dict(max_norm=1))
    apply_amp(cfg, 'fp16')
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype, cfg.optim_wrapper.loss_scale) == (
        'AmpOptimWrapper', 'float16', 'dynamic')
    assert cfg.optim_wrapper.clip_grad.max_norm == 1
    apply_amp(cfg, 'bf16')  # bfloat16 needs no loss scaling
    assert (cfg.optim_wrapper.dtype, cfg.optim_wrapper.loss_scale) == (
        'bfloat16', dict(enabled=False))


def test_cpu_bf16_trains(no_gpu):
    cfg = make_config(type='AmpOptimWrapper', loss_scale='dynamic', clip_grad=dict(max_norm=10))
    apply_amp(cfg, 'bf16')
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 1))
    settings = {**cfg.optim_wrapper}
    settings['optimizer'] = torch.optim.AdamW(model.parameters(), lr=0.01)
    wrapper = OPTIM_WRAPPERS.build(settings)
    assert isinstance(wrapper, CPUAmpOptimWrapper)
    x, losses = torch.rand(4, 3, 4, 4), []
    for _ in range(10):
        with wrapper.optim_context(model):
            out = model(x)
            loss = (out - 1).square().mean()
        assert out.dtype == torch.bfloat16
        wrapper.update_params(loss)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert wrapper.optimizer.state[model[0].weight]['exp_avg'].dtype == torch.float32


def test_cpu_bf16_resumes():
    def build():
        parameter = nn.Parameter(torch.ones(1))
        return CPUAmpOptimWrapper(optimizer=torch.optim.AdamW([parameter], lr=0.3))

    first, second = build(), build()
    first.optimizer.param_groups[0]['lr'] = 0.1
    second.load_state_dict(first.state_dict())
    assert second.optimizer.param_groups[0]['lr'] == 0.1


def build_detector(kind):
    pytest.importorskip('mmdet')
    from mmdet.registry import MODELS as DETECTORS
    cfg = Config.fromfile(find_config(f'mmdet::_base_/models/{kind}_r50_fpn.py')).model
    cfg.backbone = dict(type='ContainerLight')
    cfg.neck.update(in_channels=[64, 128, 320, 512], out_channels=16)
    head = cfg.get('rpn_head') or cfg.bbox_head
    head.update(in_channels=16, feat_channels=16)
    if 'roi_head' in cfg:
        cfg.roi_head.bbox_roi_extractor.out_channels = 16
        cfg.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16, num_classes=2)
        cfg.test_cfg.rcnn.score_thr = 0.
    else:
        cfg.bbox_head.update(num_classes=2, stacked_convs=1)
        cfg.test_cfg.score_thr = 0.
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DETECTORS.build(cfg).eval()


def samples(number):
    from mmdet.structures import DetDataSample
    meta = dict(img_shape=(96, 128), ori_shape=(96, 128), batch_input_shape=(96, 128),
                pad_shape=(96, 128), scale_factor=(1., 1.))
    truth = InstanceData(bboxes=torch.tensor([[10., 20., 70., 60.]]), labels=torch.tensor([1]))
    return [DetDataSample(metainfo=meta, gt_instances=truth) for _ in range(number)]


def watch(monkeypatch, cls, name):
    """Types of the first tensors that a method gets, and whether autocast was on."""
    seen, original = [], getattr(cls, name)

    def spy(self, *args, **kwargs):
        first = (*args, *kwargs.values())[0]
        seen.append((first[0] if isinstance(first, (list, tuple)) else first).dtype)
        seen.append(autocast_dtype('cpu') is not None)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cls, name, spy)
    return seen


@torch.no_grad()
def predict(model):
    """Detections; a second stage gets regions, since rounding may put others first in the RPN."""
    torch.manual_seed(1)
    batch = samples(1)
    if hasattr(model, 'roi_head'):
        corners = torch.rand(20, 2) * torch.tensor([90., 60.])
        batch[0].proposals = InstanceData(bboxes=torch.cat([corners, corners + 30], 1))
    return model(torch.randn(1, 3, 96, 128), batch, mode='predict')[0].pred_instances


def test_a_prepared_model_can_be_pickled():
    model = build_detector('retinanet')
    keep_float32(model)
    copied = pickle.loads(pickle.dumps(model))
    assert type(copied.bbox_head) is type(model.bbox_head) is type(copy.deepcopy(model).bbox_head)
    torch.testing.assert_close(predict(copied).scores, predict(model).scores, rtol=0, atol=0)


@pytest.mark.parametrize('kind', ['retinanet', 'faster-rcnn'])
def test_inference_in_bfloat16(kind):
    model = build_detector(kind)
    expected = predict(model)
    use_bfloat16(model)
    model = copy.deepcopy(model)
    parts = []
    model.backbone.register_forward_hook(lambda *args: parts.append(args[-1][0].dtype))
    found = predict(model)
    assert parts == [torch.bfloat16] and type(model).__name__.startswith(('Retina', 'Faster'))
    assert found.bboxes.dtype == found.scores.dtype == torch.float32
    torch.testing.assert_close(found.scores[0], expected.scores[0], rtol=0.05, atol=0.01)
    assert autocast_dtype('cpu') is None


def test_training_in_bfloat16(monkeypatch):
    from mmdet.models import BBoxHead, RPNHead, SingleRoIExtractor
    seen = [watch(monkeypatch, cls, name) for cls, name in (
        (RPNHead, 'loss_by_feat'), (RPNHead, 'predict_by_feat'), (SingleRoIExtractor, 'forward'),
        (BBoxHead, 'loss_and_target'))]
    model = build_detector('faster-rcnn').train()
    keep_float32(model)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(torch.randn(2, 3, 96, 128), samples(2), mode='loss')
    assert seen == [[torch.float32, False]] * 4
    total = sum(sum(loss) if isinstance(loss, list) else loss
                for name, loss in losses.items() if 'loss' in name)
    assert total.dtype == torch.float32
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_boxes_of_transformers_are_not_rounded():
    pytest.importorskip('mmdet')
    from mmdet.registry import MODELS as DETECTORS
    cfg = load_config('mmcontainer::detr/smca_detr_container_light_50e_coco.py').model
    cfg.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = DETECTORS.build(cfg).eval()
    use_bfloat16(model)
    boxes = predict(model).bboxes
    assert boxes.dtype == torch.float32 and not torch.equal(boxes, boxes.bfloat16().float())


@pytest.mark.parametrize('fast', [True, False])
def test_slow_bfloat16_is_said(fast, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: fast)
    said = []
    monkeypatch.setattr('mmcontainer.engine.amp.print_log', lambda text, *args: said.append(text))
    CPUAmpOptimWrapper(optimizer=torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.))
    use_bfloat16(torch.nn.Conv2d(1, 1, 1))
    assert len(said) == (0 if fast else 2)
    assert fast or 'leave out --amp bf16' in said[0]
