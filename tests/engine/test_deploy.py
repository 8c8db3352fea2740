"""What tools/test.py and tools/infer.py do to a detector."""
import copy
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.hooks import EMAHook
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmcontainer.backbones import BaseBackbone
from mmcontainer.cli.configs import load_config
from mmcontainer.engine.deploy import FoldNormsHook, fold_norms

ARCH = dict(embed_dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2),
            patch_sizes=(4, 2, 2, 2), num_heads=(None, None, None, 2),
            static=dict(kind='depthwise', kernel_size=5))


@pytest.fixture(scope='module')
def detector():
    model = load_config('mmdet::_base_/models/retinanet_r50_fpn.py').model
    model.backbone = dict(type='Container', arch=ARCH)
    model.neck.update(in_channels=[8, 16, 16, 16], out_channels=16)
    model.bbox_head.update(num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1)
    model.test_cfg.score_thr = 0.
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(model).eval()
    for name, value in model.backbone.named_buffers():
        if name.endswith(('running_mean', 'running_var')):  # a fold of 0 and 1 shows nothing
            value.uniform_(0.5, 1.5)
    return model


def samples(number):
    meta = dict(img_shape=(96, 128), ori_shape=(96, 128), batch_input_shape=(96, 128),
                pad_shape=(96, 128), scale_factor=(1., 1.))
    truth = InstanceData(bboxes=torch.tensor([[10., 20., 70., 60.]]), labels=torch.tensor([1]))
    return [DetDataSample(metainfo=meta, gt_instances=truth) for _ in range(number)]


@torch.no_grad()
def predict(model):
    torch.manual_seed(1)
    return model.predict(torch.randn(1, 3, 96, 128), samples(1), rescale=False)[0].pred_instances


def test_folded_detector_predicts_the_same(detector):
    model, expected = copy.deepcopy(detector), predict(detector)
    assert fold_norms(model) == 1
    found = predict(model)
    assert not [name for name, _ in model.backbone.named_buffers() if 'running' in name]
    torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize('hooks, folded', [([], True), ([EMAHook()], False)])
def test_hook_folds_unless_weights_are_exchanged(detector, hooks, folded):
    model = copy.deepcopy(detector)
    FoldNormsHook().before_test_epoch(SimpleNamespace(hooks=hooks, model=model))
    backbone = next(module for module in model.modules() if isinstance(module, BaseBackbone))
    assert backbone.stages[0].blocks[0].deployed == folded
