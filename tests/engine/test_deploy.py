"""Deployed backbones in a detector: in place, and as copies during an evaluation."""
import copy
import threading
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.hooks import EMAHook
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmcontainer.cli.configs import load_config
from mmcontainer.engine.deploy import DeployHook, own_backbones
from mmcontainer.layers import ContainerBlock
from mmcontainer.layers.deployed.container import DeployedContainerBlock

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


def test_deployed_detector_predicts_the_same(detector):
    model, expected = copy.deepcopy(detector), predict(detector)
    (backbone, ) = own_backbones(model)
    backbone.switch_to_deploy()
    found = predict(model)
    assert not [name for name, _ in model.backbone.named_buffers() if 'running' in name]
    torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize('loop', ['val', 'test'])
def test_hook_evaluates_a_copy_and_leaves_the_model_alone(detector, loop):
    model = copy.deepcopy(detector).train()
    weights, called = copy.deepcopy(model.state_dict()), []
    model.backbone.register_forward_hook(lambda *args: called.append(args[0]))
    loader = [None, None]
    runner = SimpleNamespace(hooks=[], model=model, val_dataloader=loader, test_dataloader=loader)
    hook = DeployHook()
    for _ in range(2):  # the second copy has the weights of its time
        model.eval()
        expected = predict(model)
        getattr(hook, f'before_{loop}_epoch')(runner)
        copied = model.backbone.forward.__self__
        assert type(copied.stages[0].blocks[0]) is DeployedContainerBlock
        found = predict(model)
        torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.scores, expected.scores)
        torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
        getattr(hook, f'after_{loop}_iter')(runner, 0)
        assert model.backbone.forward.__self__ is copied
        # Behind the last batch, since MMPretrain's EMAHook goes on to evaluate other weights.
        getattr(hook, f'after_{loop}_iter')(runner, 1)
        assert model.backbone.forward.__self__ is model.backbone
        getattr(hook, f'after_{loop}_epoch')(runner, metrics={})
        assert model.backbone.forward.__self__ is model.backbone
        assert type(model.backbone.stages[0].blocks[0]) is ContainerBlock
        model.backbone.stages[0].blocks[0].mlp.fc2.weight.data.mul_(3)
        weights = copy.deepcopy(model.state_dict())
    assert called == [model.backbone] * 4  # hooks on the backbone itself go on firing


@pytest.fixture
def evaluation(detector):
    """A function: a copy of the detector is changed, and predicts while the hook has effect."""
    warnings = []
    logger = SimpleNamespace(warning=warnings.append)

    def evaluate(change):
        model, hook = copy.deepcopy(detector), DeployHook()
        change(model.backbone)
        expected = predict(model)
        runner = SimpleNamespace(hooks=[], model=model, logger=logger)
        hook.before_val_epoch(runner)
        found = predict(model)
        hook.after_val_epoch(runner)
        torch.testing.assert_close(found.scores, expected.scores)
        return model, warnings

    return evaluate


def test_hooks_write_where_they_did(evaluation):
    class Recorder:
        seen = 0

        def hook(self, *args):
            self.seen += 1

    recorder = Recorder()

    def watch(backbone):
        backbone.stages[0].blocks[0].mlp.register_forward_hook(recorder.hook)
        backbone.stages[1].register_forward_pre_hook(recorder.hook)

    evaluation(watch)
    assert recorder.seen == 4  # without deployment, and with it


@pytest.mark.parametrize('value', ['map', 'lock'])
def test_a_backbone_that_cannot_be_copied_stays(evaluation, value):
    def keep(backbone):
        backbone.kept = threading.Lock() if value == 'lock' else backbone(
            torch.randn(1, 3, 32, 32))[0]

    _, warnings = evaluation(keep)
    assert len(warnings) == 1 and 'cannot be copied' in warnings[0]


def test_training_after_a_broken_validation_is_that_of_the_model(detector):
    model, hook = copy.deepcopy(detector), DeployHook()
    runner = SimpleNamespace(hooks=[], model=model)
    hook.before_val_epoch(runner)  # and no after_val_epoch, as after Ctrl-C in a notebook
    hook.before_val_epoch(runner)
    assert 'forward' in vars(model.backbone)
    hook.before_train_epoch(runner)
    assert 'forward' not in vars(model.backbone)


def test_a_forward_of_the_object_stays(evaluation):
    calls = []

    def replace(backbone):
        forward = backbone.forward
        backbone.forward = lambda x: calls.append(1) or forward(x)

    model, _ = evaluation(replace)
    assert len(calls) == 2 and 'forward' in vars(model.backbone)


@pytest.mark.parametrize(('hooks', 'deployed'), [([], True), ([EMAHook()], False)])
def test_a_compiled_backbone_is_deployed_itself_unless_weights_are_exchanged(
        detector, hooks, deployed):
    model = copy.deepcopy(detector)
    model.backbone.compile(backend='eager')
    hook, runner = DeployHook(), SimpleNamespace(hooks=hooks, model=model)
    hook.before_val_epoch(runner)
    assert type(model.backbone.stages[0].blocks[0]) is ContainerBlock
    hook.before_test_epoch(runner)
    assert (type(model.backbone.stages[0].blocks[0]) is DeployedContainerBlock) == deployed
    assert 'forward' not in vars(model.backbone)
