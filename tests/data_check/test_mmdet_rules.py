"""MMDetection's treatment of names, which the checks rest on: if it changes, so must they."""
import json

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

pytest.importorskip('mmdet')
from mmdet.datasets import CocoDataset  # noqa: E402
from mmdet.evaluation import CocoMetric  # noqa: E402

BOXES = dict(red=[5, 5, 20, 20], blue=[30, 30, 20, 20])


def write(path, categories):
    ids = {category['name']: category['id'] for category in categories}
    path.write_text(json.dumps(dict(
        images=[dict(id=1, file_name='1.jpg', width=64, height=64)], categories=categories,
        annotations=[dict(id=number, image_id=1, category_id=ids[name], bbox=box, area=400,
                          iscrowd=0) for number, (name, box) in enumerate(BOXES.items(), 1)])))
    return str(path)


def labels(path, classes):
    """Label that the data set gives to the object of each name."""
    dataset = CocoDataset(ann_file=path, metainfo=dict(classes=classes), data_prefix=dict(img=''),
                          pipeline=[])
    instances = dataset.get_data_info(0)['instances']
    return {name: instance['bbox_label'] for name, instance in zip(BOXES, instances)}


def evaluate(path, classes, found, **options):
    """Evaluate detections {name: label}; only the red one is in the right place."""
    metric = CocoMetric(ann_file=path, metric='bbox', **options)
    metric.dataset_meta = dict(classes=classes)
    x, y, w, h = BOXES['red']
    boxes = torch.tensor([[x, y, x + w, y + h], [0, 0, 3, 3]]).float()
    prediction = InstanceData(bboxes=boxes, scores=torch.ones(2),
                              labels=torch.tensor([found['red'], found['blue']]))
    metric.process({}, [dict(img_id=1, ori_shape=(64, 64), pred_instances=prediction)])
    return metric.evaluate(size=1)


RED_FIRST = [dict(id=1, name='red'), dict(id=2, name='blue')]
DESCENDING = [dict(id=2, name='red'), dict(id=1, name='blue')]


@pytest.mark.parametrize('categories', [RED_FIRST, DESCENDING])
@pytest.mark.parametrize('classes', [('red', 'blue'), ('blue', 'red')])
def test_labels_and_metric_follow_the_file(tmp_path, categories, classes):
    path = write(tmp_path / 'a.json', categories)
    found = labels(path, classes)
    assert found == dict(red=0, blue=1)
    assert np.isclose(evaluate(path, classes, found)['coco/bbox_mAP'], 0.5)


def test_class_wise_results_follow_the_ids(tmp_path):
    for categories, right in ((RED_FIRST, 'red'), (DESCENDING, 'blue')):
        path = write(tmp_path / 'a.json', categories)
        found = evaluate(path, ('red', 'blue'), dict(red=0, blue=1), classwise=True)
        assert {name: found[f'coco/{name}_precision'] for name in BOXES} == {
            name: float(name == right) for name in BOXES}


def test_sort_categories_sorts_the_metric_only(tmp_path):
    path = write(tmp_path / 'a.json', DESCENDING)
    found = evaluate(path, ('red', 'blue'), labels(path, ('red', 'blue')), sort_categories=True)
    assert found['coco/bbox_mAP'] == 0
