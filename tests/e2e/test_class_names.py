"""Names that tools/infer.py writes, where the config has another order than the data."""
import json

import pytest

from mmcontainer.data_check.repair import renumber_file

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


def test_names_are_right_although_classes_are_swapped(
        tiny_data, tiny_config, run_tool, tmp_path):
    config, annotations = tiny_config(extra=SWAPPED), tiny_data / 'annotations'
    run_tool('train.py', config, '--work-dir', tmp_path, '--data-root', tiny_data, '--from-scratch')
    checkpoint = tmp_path / 'epoch_12.pth'
    run_tool('infer.py', tiny_data / 'train2017', '--config', config, '--checkpoint', checkpoint,
             '--score-thr', 0, '--out-dir', tmp_path / 'found', '--device', 'cpu', '--no-pictures')
    data = json.loads((annotations / 'instances_train2017.json').read_text())
    names = {category['id']: category['name'] for category in data['categories']}
    right = 0
    for truth in data['annotations']:
        result = json.loads((tmp_path / 'found' / f'{truth["image_id"]:03d}.json').read_text())
        best = next(found for found in result['detections']  # best first
                    if overlap(truth['bbox'], found['bbox']) > 0.5)
        right += best['class'] == names[truth['category_id']]
    # With the names as the config has them nearly all would be wrong.
    assert right >= 0.8 * len(data['annotations'])

    # Data in which 'bar' comes first is data of another model.
    root = tmp_path / 'bar_first'
    root.mkdir()
    for folder in ('train2017', 'val2017'):
        (root / folder).symlink_to(tiny_data / folder)
    (root / 'annotations').mkdir()
    for file in annotations.iterdir():
        renumber_file(file, root / 'annotations' / file.name, ['bar', 'square'])
    for tool, *options in (('test.py', checkpoint), ('train.py', '--resume', checkpoint)):
        output = run_tool(tool, config, *options, '--work-dir', tmp_path, '--data-root', root,
                          code=2)
        assert "label 0 is 'square' there and 'bar' here" in output
