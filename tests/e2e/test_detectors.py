"""Container-Light inside of the detectors of the configs: learning, empty images, padding."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

CONFIGS = ['retinanet/container_light_fpn_1x_coco.py', 'mask_rcnn/container_light_fpn_1x_coco.py']


def _build(repo_root, config, **backbone):
    from mmdet.utils import register_all_modules
    register_all_modules(init_default_scope=False)
    cfg = Config.fromfile(repo_root / 'configs' / config)
    init_default_scope('mmdet')
    for key, value in dict(init_cfg=None, **backbone).items():
        cfg.model.backbone[key] = value
    if 'roi_head' in cfg.model:  # the regions of the recipe are thousands
        cfg.model.train_cfg.rpn_proposal.max_per_img = 200
        cfg.model.train_cfg.rcnn.sampler.num = 64
        cfg.model.test_cfg.rcnn.max_per_img = 10
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return cfg, model


def _batch(model, num_items, sizes=((128, 160), (128, 160))):
    from mmdet.testing import demo_mm_inputs
    with_mask = hasattr(model, 'roi_head')
    inputs = demo_mm_inputs(len(sizes), [(3, *size) for size in sizes], num_items=num_items,
                            num_classes=80, with_mask=with_mask)
    return model.data_preprocessor(inputs, training=True)


def _loss(model, batch):
    torch.manual_seed(0)  # drop path and the sampling of proposals
    losses = model(**copy.deepcopy(batch), mode='loss')
    total, log = model.parse_losses(losses)
    assert total.isfinite()
    return total, log


@pytest.mark.slow
@pytest.mark.parametrize(('config', 'frozen_norm'), zip(CONFIGS, [True, False]))
def test_two_steps_lower_the_loss_and_move_only_what_is_trained(repo_root, config, frozen_norm):
    free = dict(norm_cfg=dict(type='BN'), norm_eval=False)
    cfg, model = _build(
        repo_root, config, frozen_stages=1, **({} if frozen_norm else free))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train()
    batch = _batch(model, num_items=[4, 3])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = []
    for _ in range(3):
        total, _ = _loss(model, batch)
        losses.append(total.item())
        if len(losses) < 3:
            optimizer.update_params(total)
    # The second step may meet other proposals than the first.
    assert max(losses[1:]) < losses[0]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert any('patch_embed' in name for name in frozen)
    assert any('norm' in name and '.stages.3.' in name for name in frozen) == frozen_norm
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in frozen), name


@pytest.mark.parametrize('config', CONFIGS)
def test_images_without_objects_train(repo_root, config):
    _, model = _build(repo_root, config)
    model.train()
    total, log = _loss(model, _batch(model, num_items=[0, 0]))
    total.backward()
    box_losses = [value for name, value in log.items() if 'bbox' in name or 'mask' in name]
    assert box_losses and all(value == 0 for value in box_losses)
    assert model.backbone.stages[3].blocks[0].aggregation.mix_logit.grad is not None


@pytest.mark.parametrize('config', CONFIGS)
def test_loss_predict_and_tensor_modes(repo_root, config):
    _, model = _build(repo_root, config)
    model.eval()
    batch = _batch(model, num_items=[2, 2], sizes=((96, 128), (101, 67)))
    with torch.no_grad():
        results = model(**batch, mode='predict')
        assert model(**batch, mode='tensor')
    assert len(results) == 2
    for result in results:
        boxes = result.pred_instances.bboxes
        assert boxes.isfinite().all()
        if 'masks' in result.pred_instances:
            assert tuple(result.pred_instances.masks.shape[1:]) == result.ori_shape[:2]


def _relative_difference(a, b):
    return ((a - b).square().mean().sqrt() / b.std()).item()


def test_padding_reaches_features_only_as_documented(repo_root):
    """docs/numerics.md: convolutions see padding near the border, attention sees it anywhere."""
    _, model = _build(repo_root, CONFIGS[0])
    backbone = model.backbone.eval().double()
    torch.manual_seed(0)
    small, large = torch.randn(3, 192, 224).double(), torch.randn(3, 256, 288).double()
    batch = torch.zeros(2, 3, 256, 288, dtype=torch.float64)
    batch[0, :, :192, :224], batch[1] = small, large
    with torch.no_grad():
        together = backbone(batch)
        alone = backbone(small[None]), backbone(large[None])
    for stage, (both, one) in enumerate(zip(together, alone[0])):
        height, width = one.shape[2:]
        # The image that fills the batch is not changed at all.
        torch.testing.assert_close(both[1:], alone[1][stage])
        inside = both[:1, :, :height, :width]
        corner = (..., slice(0, height // 4), slice(0, width // 4))
        if stage == 0:
            # 3 blocks of a 3x3 and a 5x5 kernel reach 9 cells far.
            torch.testing.assert_close(inside[..., :-9, :-9], one[..., :-9, :-9])
        if stage < 2:
            torch.testing.assert_close(inside[corner], one[corner])
        if stage == 3:
            assert 1e-6 < _relative_difference(inside[corner], one[corner]) < 0.5


def test_padding_changes_scores_of_a_detector_little(repo_root):
    _, model = _build(repo_root, CONFIGS[0])
    model.eval()
    batch = _batch(model, num_items=[1, 1], sizes=((224, 288), (320, 320)))
    images = batch['inputs']
    with torch.no_grad():
        together = model(images, mode='tensor')[0]
        alone = [model(images[:1, :, :224, :288], mode='tensor')[0],
                 model(images[1:], mode='tensor')[0]]
    for both, small, large in zip(together, *alone):
        torch.testing.assert_close(both[1:], large, rtol=1e-4, atol=1e-4)
        inside = both[:1, :, :small.shape[2], :small.shape[3]]
        difference = (inside.sigmoid() - small.sigmoid()).abs().max()
        assert 0 < difference < 0.01
