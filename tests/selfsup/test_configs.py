"""The recipe of Table 6 as configs, and what trains out of them."""
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS, TRANSFORMS

from mmcontainer.checkpoints import load_backbone
from mmcontainer.cli.configs import load_config

RECIPES = {'container_light': 512, 'deit_s': 384}


def read(name):
    cfg = load_config(f'mmcontainer::dino/{name}.py')
    init_default_scope('mmpretrain')
    return cfg


@pytest.mark.parametrize('name', RECIPES)
def test_recipe(name):
    cfg = read(f'{name}_8xb64_100e_in1k')
    assert 'mmcontainer.selfsup' in cfg.custom_imports.imports
    train = cfg.train_dataloader
    assert train.batch_size == 64 and train.drop_last and cfg.auto_scale_lr.base_batch_size == 512
    wrapper = cfg.optim_wrapper
    assert wrapper.optimizer.type == 'AdamW' and wrapper.optimizer.weight_decay == 0.04
    assert wrapper.optimizer.lr == pytest.approx(0.001) and wrapper.clip_grad == dict(max_norm=3.)
    assert 'betas' not in wrapper.optimizer, "torch's are DINO's"
    warmup, cosine, decay = cfg.param_scheduler
    assert (warmup.type, warmup.end) == ('LinearLR', 10) and warmup.start_factor < 1e-8
    assert (cosine.type, cosine.begin, cosine.eta_min) == ('CosineAnnealingLR', 10, 1e-6)
    assert (decay.type, decay.eta_min) == ('CosineAnnealingWeightDecay', 0.4)
    assert all(one.convert_to_iter_based and one.by_epoch for one in cfg.param_scheduler)
    assert cfg.train_cfg.max_epochs == 100 and cfg.train_cfg.val_interval == 20
    loss = cfg.model.loss
    assert (loss.student_temp, loss.teacher_temp, loss.warmup_epochs) == (0.1, 0.04, 0)
    assert loss.center_momentum == 0.9 and cfg.model.teacher_momentum == 0.996
    assert cfg.model.head.out_channels == 65536
    hook, = [hook for hook in cfg.custom_hooks if hook.type == 'DINOHook']
    assert hook.freeze_last_layer == 1
    assert {'RNGStateHook', 'DeployHook'} <= {hook.type for hook in cfg.custom_hooks}
    assert cfg.val_evaluator.k[0] == 10


@pytest.mark.parametrize('name', RECIPES)
def test_crops(name):
    """Sizes, areas and probabilities of the table of DINO's code."""
    cfg = read(f'{name}_8xb64_100e_in1k')
    views = cfg.train_dataloader.dataset.pipeline[1]
    assert views.num_views == [1, 1, 8]
    expected = [(224, (0.4, 1.0), 1.0, None), (224, (0.4, 1.0), 0.1, 0.2),
                (96, (0.05, 0.4), 0.5, None)]
    for steps, (size, area, blur, solarize) in zip(views.transforms, expected):
        by_type = {step.type: step for step in steps}
        crop = by_type['RandomResizedCrop']
        assert (crop.scale, tuple(crop.crop_ratio_range)) == (size, area)
        assert (crop.backend, crop.interpolation) == ('pillow', 'bicubic')
        assert by_type['GaussianBlur'].prob == blur
        assert by_type['GaussianBlur'].magnitude_range == (0.1, 2.0)
        assert by_type['RandomFlip'].prob == 0.5 and by_type['RandomGrayscale'].prob == 0.2
        assert by_type['RandomApply'].prob == 0.8
        assert by_type['RandomApply'].transforms[0] == dict(
            type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
        assert (by_type['Solarize'].prob if solarize else None) == solarize
        assert [step.type for step in steps][:5] == [
            'RandomResizedCrop', 'RandomFlip', 'RandomApply', 'RandomGrayscale', 'GaussianBlur']
        if solarize:
            assert by_type['Solarize'].thr == 128 and steps[-1].type == 'Solarize'


@pytest.mark.parametrize('name, sizes', [
    ('container_light_8xb64_100e_in1k', [224] * 2 + [96] * 8),
    ('deit_s_1xb64_5e_imagenette', [64] * 2 + [32] * 2)])
def test_pipeline(name, sizes, tmp_path):
    import cv2
    import numpy as np
    cfg = read(name)
    path = str(tmp_path / 'image.png')
    cv2.imwrite(path, np.random.RandomState(0).randint(0, 255, (140, 180, 3), np.uint8))
    train, *val = (
        [TRANSFORMS.build(step) for step in dataset.pipeline]
        for dataset in (cfg.train_dataloader.dataset, *cfg.val_dataloader.dataset.datasets))

    def run(steps):
        results = dict(img_path=path, gt_label=3)
        for step in steps:
            results = step(results)
        return results

    crops = run(train)['inputs']
    assert [tuple(crop.shape) for crop in crops] == [(3, size, size) for size in sizes]
    assert not torch.equal(crops[0], crops[1]), 'every crop draws for itself'
    references, images = map(run, val)
    assert references['data_samples'].is_reference and 'is_reference' not in images['data_samples']
    assert references['inputs'].shape == images['inputs'].shape == (3, sizes[0], sizes[0])


@pytest.mark.parametrize('name', RECIPES)
def test_models(name):
    cfg = read(f'{name}_1xb64_5e_imagenette')
    cfg.model.head.update(out_channels=32, hidden_channels=16, bottleneck_channels=8)
    model = MODELS.build(cfg.model)
    model.init_weights()
    rates = {part: max([getattr(module, 'drop_prob', None) or 0. for module in net.modules()])
             for part, net in (('student', model.backbone), ('teacher', model.teacher.module))}
    assert rates['student'] == pytest.approx(0.1) and rates['teacher'] == 0.
    student = model.state_dict()
    for key, value in model.teacher.module.state_dict().items():
        assert torch.equal(value, student[key]), 'the teacher starts as the student'
    model.epoch = 0
    crops = [torch.randn(2, 3, size, size) for size in (64, 64, 32, 32)]
    loss = model(crops, mode='loss')['loss']
    loss.backward()
    without = [key for key, value in model.named_parameters()
               if value.requires_grad and value.grad is None]
    assert loss.isfinite() and not without
    assert not any(value.requires_grad for value in model.teacher.parameters())


def test_the_teacher_loads_into_a_detector(tmp_path):
    """What StrictPretrained does in RetinaNet, whose backbone has no final norm."""
    cfg = read('container_light_1xb64_5e_imagenette')
    cfg.model.head.update(out_channels=32, hidden_channels=16, bottleneck_channels=8)
    model = MODELS.build(cfg.model)
    with torch.no_grad():
        for value in model.teacher.module.parameters():
            value.add_(1.)
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    detector = load_config('mmcontainer::retinanet/container_light_paper_fpn_1x_coco.py')
    detector.model.backbone.init_cfg = None
    backbone = MODELS.build(dict(detector.model.backbone, _scope_='mmpretrain'))
    load_backbone(backbone, path)
    teacher = model.teacher.module.backbone.state_dict()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, teacher[key]), key
