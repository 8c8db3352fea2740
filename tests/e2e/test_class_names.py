"""Names that tools/infer.py writes, where the config has another order than the data."""
import json
from argparse import Namespace

import pytest

pytestmark = pytest.mark.slow
# The data has 'square' first. Everything that would make so short a training worse is turned off.
SWAPPED = """
train_pipeline[2:5] = [dict(type='Resize', scale=(96, 96), keep_ratio=True)]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(
    metainfo=dict(classes=('bar', 'square')), pipeline=train_pipeline))
val_dataloader['dataset']['metainfo'] = dict(classes=('bar', 'square'))
model['backbone']['drop_path_rate'] = 0.
train_cfg = dict(max_epochs=12, val_interval=12)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = []
default_hooks = dict(logger=dict(interval=24))
randomness = dict(seed=0)
"""


def overlap(box, other):
    """Share of a box [x, y, w, h] that lies in another [x1, y1, x2, y2]."""
    x, y, w, h = box
    width = min(x + w, other[2]) - max(x, other[0])
    height = min(y + h, other[3]) - max(y, other[1])
    return max(0, width) * max(0, height) / (w * h)


def test_names_are_right_although_classes_are_swapped(tiny_data, tiny_config, tmp_path):
    from mmcontainer.engine.inference import infer
    from mmcontainer.engine.training import train
    config = str(tiny_config(extra=SWAPPED))
    common = dict(cfg_options=None, amp=None, compile=False, verbose=False, overwrite=False,
                  allow_partial_load=False)
    train(Namespace(config=config, work_dir=str(tmp_path), data_root=str(tiny_data), resume=None,
                    from_scratch=True, auto_scale_lr=False, launcher='none', **common))
    infer(Namespace(config=config, checkpoint=str(tmp_path / 'epoch_12.pth'), score_thr=0.,
                    images=[str(tiny_data / 'train2017')], out_dir=str(tmp_path / 'found'),
                    device='cpu', no_deploy=True, recursive=False, max_pixels=10**8, **common))
    data = json.loads((tiny_data / 'annotations' / 'instances_train2017.json').read_text())
    names = {category['id']: category['name'] for category in data['categories']}
    right = 0
    for truth in data['annotations']:
        result = json.loads((tmp_path / 'found' / f'{truth["image_id"]:03d}.json').read_text())
        best = next(found for found in result['detections']  # best first
                    if overlap(truth['bbox'], found['bbox']) > 0.5)
        right += best['class'] == names[truth['category_id']]
    # With the names as the config has them nearly all would be wrong.
    assert right >= 0.8 * len(data['annotations'])
