"""The lines with which a run begins, and the table with which an evaluation ends."""
from types import SimpleNamespace

import pytest
from mmengine.dataset import BaseDataset
from torch.utils.data import DataLoader

from mmcontainer.engine.summary import (
    _describe_schedule,
    describe_classes,
    describe_data,
    describe_last_batch,
    metrics_table,
)


class Data:
    """Images with one label for each object."""

    def __init__(self, labels, classes, file='a.json'):
        self.labels, self.metainfo, self.ann_file = labels, dict(classes=classes), file

    def __len__(self):
        return len(self.labels)

    def get_cat_ids(self, index):
        return self.labels[index]


def wrap(classes, **inner):
    """A data set of data sets, that is twice as long."""
    return type('Wrapped', (), dict(metainfo=dict(classes=classes), __len__=lambda self: 4,
                                    **inner))()


def test_data_and_classes():
    data = Data([[0, 0, 1], []], ('red', 'blue', 'green'))
    assert describe_classes(data) == '3 (red 2, blue 1, green 0)'
    assert describe_data(data) == '2 images, 3 objects (a.json)'


def test_wrapped_data():
    one, two = Data([[0]], ('red', )), Data([[0, 0]], ('red', ), 'b.json')
    wrapped = wrap(('red', ), dataset=SimpleNamespace(datasets=[one, two]))
    assert describe_data(wrapped) == '2 images, 3 objects, 4 with repetitions (a.json, b.json)'
    assert describe_classes(wrapped) == '1 (red 3)'


def test_many_classes():
    names = [f'c{label}' for label in range(20)]
    data = Data([[label] * label for label in range(20)], names)
    assert describe_classes(data) == '20, from 19 (c19) to 0 (c0)'
    data = Data([[3]], names)
    assert describe_classes(data).endswith('; none of 19 of them')


@pytest.mark.parametrize('number, options, text', [
    (7, dict(batch_size=3), ', the last with 1 image'),
    (8, dict(batch_size=3), ', the last with 2 images'),
    (9, dict(batch_size=3), ''), (7, dict(batch_size=3, drop_last=True), ''),
    (7, dict(batch_size=None), ''), (7, dict(batch_sampler=[[0, 1], [2]]), '')])
def test_a_last_batch_that_is_not_whole_is_named(number, options, text):
    # A batch of one image with few boxes has a gradient far above the usual one.
    assert describe_last_batch(DataLoader(range(number), **options)) == text


def test_data_that_cannot_be_counted():
    data = SimpleNamespace(metainfo=dict(classes=('red', )))
    assert describe_classes(wrap(('red', ), dataset=[data])) == '1 (red)'
    # MMEngine's own method, which MMSegmentation's data sets do not override, raises.
    assert describe_classes(BaseDataset(metainfo=dict(classes=('red', )), lazy_init=True)) == (
        '1 (red)')


@pytest.mark.parametrize('schedule, text', [
    (None, 'constant'),
    (dict(type='MultiStepLR', milestones=[8, 11]), 'MultiStepLR (x 0.1 after epochs 8, 11)'),
    ([dict(type='LinearLR', by_epoch=False, end=500), dict(type='CosineAnnealingLR', end=12)],
     'LinearLR (iterations 0 to 500), then CosineAnnealingLR (epochs 0 to 12)'),
    (dict(type='ExponentialLR', gamma=0.9), 'ExponentialLR (by epochs)'),
    (dict(head=dict(type='ExponentialLR'), rest=[dict(type='LinearLR', end=2)]),
     'ExponentialLR (by epochs), then LinearLR (epochs 0 to 2)')])
def test_schedules(schedule, text):
    assert _describe_schedule(dict(param_scheduler=schedule)) == text


def test_metrics():
    metrics = {'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_s': -1.0, 'coco/segm_mAP': 0.25,
               'coco/red_precision': 0.1, 'accuracy/top1': 93.3333, 'loss': 0.1}
    assert metrics_table(metrics) == [
        '             mAP  mAP_s    top1   loss',
        'coco/bbox  0.500      -',
        'coco/segm  0.250',
        'accuracy                 93.333',
        'metric                           0.100']
    assert metrics_table({}) == []
