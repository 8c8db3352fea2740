"""No part of a model makes a tensor on another device than its input's: seen without a GPU.

Forward passes run on fake CUDA tensors, which cannot be differentiated without a GPU; backward
passes run on the meta device. Neither has values, so what depends on values (assigners, losses,
suppression) is not here.
"""
import pytest
import torch
from built import CLASSES, KINDS, build_empty
from fake_cuda import fake_cuda, to_fake_cuda
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch.nn.modules.batchnorm import _BatchNorm
from torch_versions import needs_torch

pytestmark = needs_torch('2.5.0', 'a fake tensor on CUDA under autocast')

SIZE = (97, 50)
DETECTORS = [
    'retinanet/container_light_fpn_1x_coco', 'retinanet/container_light_fpn_demo_shapes',
    # Faster and Cascade R-CNN are parts of their siblings with masks; every backbone is above.
    'mask_rcnn/container_light_fpn_demo_shapes', 'mask_rcnn/cotnet_50_fpn_1x_coco',
    'cascade_mask_rcnn/se_cotnetd_50_fpn_1x_coco',
    # Deformable DETR is not here: MMDetection reads values of a tensor in its forward.
    'detr/detr_container_light_50e_coco', 'detr/smca_detr_container_light_50e_coco']


def _build(cls, arch, **kwargs):
    """On the meta device, with two blocks per stage at most."""
    row = cls.arch_settings[arch]
    with torch.device('meta'):
        return cls({**row, 'depths': tuple(min(depth, 2) for depth in row['depths'])}, **kwargs)


def _tensors(value):
    """All tensors in lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [tensor for item in values for tensor in _tensors(item)]


def _assert_on_cuda(value):
    tensors = _tensors(value)
    assert tensors and all(tensor.device.type == 'cuda' for tensor in tensors)
    return tensors


def test_a_tensor_on_the_cpu_is_found():
    class Misplaced(torch.nn.Module):
        def forward(self, x):
            return x * torch.arange(3.)

    with fake_cuda(), pytest.raises(RuntimeError, match='two (different )?devices'):
        Misplaced()(torch.empty(2, 3, device='cuda'))


@pytest.mark.parametrize(('cls', 'arch'), KINDS)
def test_backbone_in_training(cls, arch):
    """In float32, and under autocast to both types that GPUs have."""
    model = _build(cls, arch, drop_path_rate=0.1)
    for autocast in (None, torch.float16, torch.bfloat16):
        with fake_cuda(autocast):
            outs = to_fake_cuda(model)(torch.empty(2, 3, *SIZE, device='cuda'))
            dtypes = {out.dtype for out in _assert_on_cuda(outs)}
        # CUDA's autocast normalises layers in float32, and a residual path stays so.
        assert dtypes <= {torch.float32, autocast or torch.float32}


@pytest.mark.parametrize('cls', CLASSES)
def test_backbone_with_checkpointing(cls):
    model = _build(cls, next(iter(cls.arch_settings)), with_cp=True)
    with fake_cuda():
        _assert_on_cuda(to_fake_cuda(model)(torch.empty(2, 3, *SIZE, device='cuda')))


@pytest.mark.parametrize(('cls', 'arch'), KINDS)
def test_backbone_for_inference(cls, arch):
    """What re-parameterisation computes, on the device of the weights, and its result."""
    model = _build(cls, arch).eval()
    with fake_cuda(), torch.no_grad():
        model = to_fake_cuda(model).switch_to_deploy()
        _assert_on_cuda([*model.parameters(), *model.buffers()])
        _assert_on_cuda(model(torch.empty(2, 3, *SIZE, device='cuda')))


@pytest.mark.parametrize(('cls', 'arch'), KINDS)
def test_backward_of_a_backbone(cls, arch):
    model = _build(cls, arch, drop_path_rate=0.1)
    outs = model(torch.empty(2, 3, *SIZE, device='meta'))
    sum(out.square().mean() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.is_meta, name
        assert parameter.grad.shape == parameter.shape


def _samples(size):
    return [DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, batch_input_shape=size))
            for _ in range(2)]


def _run_heads(model, images):
    """Raw predictions of every head of a detector; regions of a RoI head are given."""
    if not hasattr(model, 'roi_head'):
        return model(images, _samples(tuple(images.shape[2:])), mode='tensor')
    feats = model.extract_feat(images)
    outs = [model.rpn_head(feats)]
    heads, channels = model.roi_head, feats[0].shape[1]
    for name, size in (('bbox_head', 7), ('mask_head', 14)):
        found = getattr(heads, name, None)
        if found is not None:
            regions = torch.empty(6, channels, size, size, device=images.device)
            for head in found if isinstance(found, torch.nn.ModuleList) else [found]:
                outs.append(head(regions))
    return outs


@pytest.mark.parametrize('name', DETECTORS)
def test_neck_and_heads(name, repo_root):
    """All but mmcv's compiled operators, which know no fake tensors."""
    model = build_empty(Config.fromfile(repo_root / 'configs' / f'{name}.py')).train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and type(module).__name__ == 'SyncBatchNorm':
            module.eval()  # synchronises nothing, without a process group
    for autocast in (None, torch.bfloat16):
        with fake_cuda(autocast):
            images = torch.empty(2, 3, 64, 96, device='cuda')
            _assert_on_cuda(_run_heads(to_fake_cuda(model), images))


def test_classifier(repo_root):
    model = build_empty(Config.fromfile(
        repo_root / 'configs/imagenet/container_light_8xb128_in1k.py')).train()
    with fake_cuda():
        feats = to_fake_cuda(model).extract_feat(torch.empty(2, 3, 64, 64, device='cuda'))
        _assert_on_cuda(model.head(feats))
