"""Configs and table of benchmarks.trained_exports; the trainings take minutes each."""
import pytest
from built import build_empty

from benchmarks.small_detectors import CLASSES, CONFIGS
from benchmarks.trained_exports import render, schedule_of, write_config
from mmcontainer.cli.configs import load_config

pytest.importorskip('mmdet')


@pytest.mark.parametrize('kind', CONFIGS)
def test_config_is_of_a_small_detector_of_the_shapes(kind, tmp_path):
    write_config(kind, schedule_of(kind, 2), tmp_path / 'config.py')
    cfg = load_config(str(tmp_path / 'config.py'))
    model = build_empty(cfg)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1e6
    heads = cfg.model.bbox_head if 'bbox_head' in cfg.model else cfg.model.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        assert head.num_classes == CLASSES == len(cfg.metainfo.classes)
    assert cfg.train_cfg.max_epochs == 2 and cfg.param_scheduler[1].end == 2
    assert cfg.train_dataloader.batch_size == (8 if 'encoder' in cfg.model else 16)
    with_masks = cfg.train_dataloader.dataset.pipeline[1].get('with_mask', False)
    assert with_masks == ('mask' in kind)


def test_table():
    row = dict(kind='mask_rcnn', tested=dict(bbox=0.26, segm=0.17),
               onnx=dict(bbox=0.2604, segm=0.1))
    lines = render([{**row, 'int8': dict(bbox=0.25, segm=0.09)},
                    {**row, 'refused': 'it lost 0.02'}]).splitlines()
    assert 'bbox, segm' in lines[2] and '0.2604, 0.1000' in lines[2] and '0.2500' in lines[2]
    assert 'refused: it lost 0.02' in lines[3]
