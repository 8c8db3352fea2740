"""Which detectors are told that random weights need norms in the neck and the heads."""
import pytest

from mmcontainer.cli.config_changes import scratch_advice
from mmcontainer.cli.configs import load_config

MASK_RCNN = 'mmcontainer::mask_rcnn/container_light_fpn_1x_coco.py'
PARTS = ('model.neck', 'model.roi_head.bbox_head', 'model.roi_head.mask_head')


@pytest.mark.parametrize('config', [
    'mmcontainer::retinanet/container_light_fpn_1x_coco.py',  # learns without
    'mmcontainer::mask_rcnn/container_light_fpn_demo_shapes.py',
    'mmcontainer::cascade_mask_rcnn/cotnet_50_fpn_1x_coco.py',  # norms everywhere, 80 classes
    'mmcontainer::detr/smca_detr_container_light_50e_coco.py',
    'mmcontainer::imagenet/container_light_8xb128_in1k.py',
])
def test_no_advice_where_nothing_is_missing(config):
    assert scratch_advice(load_config(config)) == []


def test_parts_without_norms_are_named():
    cfg = load_config(MASK_RCNN)
    line, = scratch_advice(cfg)
    assert 'made for pretrained weights' in line and 'docs/numerics.md' in line
    assert all(part in line for part in PARTS) and 'too large' not in line
    cfg.model.neck.norm_cfg = dict(type='GN', num_groups=32)
    line, = scratch_advice(cfg)
    assert PARTS[0] not in line and all(part in line for part in PARTS[1:])


def test_few_classes_are_named_until_the_mask_head_starts_small():
    cfg = load_config('mmcontainer::cascade_mask_rcnn/cotnet_50_fpn_1x_coco.py')
    cfg.model.roi_head.mask_head.update(num_classes=3, type='FCNMaskHead')
    line, = scratch_advice(cfg)
    assert 'no norms' not in line and 'model.roi_head.mask_head is too large' in line
    cfg.model.roi_head.mask_head.type = 'SmallInitMaskHead'
    assert scratch_advice(cfg) == []


def test_the_section_it_names_exists(repo_root):
    text = (repo_root / 'docs' / 'numerics.md').read_text(encoding='utf-8')
    assert '\n## Mask R-CNN from random weights\n' in text
