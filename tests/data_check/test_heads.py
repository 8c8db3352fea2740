"""num_classes of every head against the number of class names."""
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmcontainer  # noqa: F401  lets configs name mmcontainer::
from mmcontainer.data_check.classes import check_heads, iter_heads
from mmcontainer.data_check.report import Report

TWO = ('red', 'blue')
KEYS = {
    'retinanet/container_light_fpn_1x_coco.py': ['bbox_head'],
    'mask_rcnn/container_light_fpn_1x_coco.py': ['roi_head.bbox_head', 'roi_head.mask_head'],
    'cascade_mask_rcnn/cotnet_50_fpn_1x_coco.py': [
        'roi_head.bbox_head.0', 'roi_head.bbox_head.1', 'roi_head.bbox_head.2',
        'roi_head.mask_head'],
    'detr/smca_detr_container_light_50e_coco.py': ['bbox_head'],
    'detr/deformable_detr_container_light_50e_coco.py': ['bbox_head'],
}


@pytest.mark.parametrize('name', KEYS)
def test_every_head_of_a_detector_is_named(repo_root, name):
    cfg = Config.fromfile(repo_root / 'configs' / name)
    found = [(key, number) for key, number, _ in iter_heads(cfg)]
    assert found == [(f'model.{key}.num_classes', 80) for key in KEYS[name]]
    report = Report()
    check_heads(cfg, range(80), report)
    assert not report.problems
    check_heads(cfg, TWO, report)
    assert len(report.problems) == 1
    options = ' '.join(f'model.{key}.num_classes=2' for key in KEYS[name])
    assert f'--cfg-options {options}' in report.problems[0]
    cfg.merge_from_dict({f'model.{key}.num_classes': 2 for key in KEYS[name]})
    report = Report()
    check_heads(cfg, TWO, report)
    assert not report.problems


@pytest.mark.parametrize('name', ['mask_rcnn/container_light_fpn_1x_coco.py',
                                  'detr/smca_detr_container_light_50e_coco.py'])
def test_the_rule_is_that_of_mmdetections_hook(repo_root, name):
    """Of the built model the hook looks at the same modules."""
    from mmdet.engine.hooks import NumClassCheckHook

    class Runner:
        class train_dataloader:
            class dataset:
                metainfo = dict(classes=TWO)

    cfg = Config.fromfile(repo_root / 'configs' / name)
    init_default_scope('mmdet')
    for key, _, _ in iter_heads(cfg):
        cfg.merge_from_dict({key: 2})
    cfg.model.backbone.init_cfg = None
    Runner.model = MODELS.build(cfg.model)
    NumClassCheckHook()._check_head(Runner, 'train')


def test_heads_that_name_no_number():
    cfg = Config(dict(default_scope='mmdet', model=dict(
        type='FasterRCNN', rpn_head=dict(type='RPNHead', in_channels=8), roi_head=dict(
            type='StandardRoIHead', bbox_head=dict(type='Shared2FCBBoxHead', in_channels=8)))))
    report = Report()
    check_heads(cfg, TWO, report)
    assert 'model.roi_head.bbox_head.num_classes=80 (the default of Shared2FCBBoxHead)' in (
        report.problems[0])
    assert 'rpn_head' not in report.problems[0]


def test_losses_that_count_classes_too():
    loss = dict(type='SeesawLoss', num_classes=1203)
    cfg = Config(dict(default_scope='mmdet', model=dict(
        type='FasterRCNN', roi_head=dict(type='StandardRoIHead', bbox_head=dict(
            type='Shared2FCBBoxHead', num_classes=2, loss_cls=loss)))))
    assert [key for key, number, _ in iter_heads(cfg) if number != 2] == [
        'model.roi_head.bbox_head.loss_cls.num_classes']
