"""Small COCO data sets with what real ones have wrong, through the check that precedes training."""
import copy
import json
import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmcontainer.data_check import check_annotations

from .harness import Case

CLASSES = ('cat', 'Dog', 'traffic light')
SIZE = (48, 64)  # height, width


@lru_cache
def _picture() -> bytes:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    return cv2.imencode('.jpg', image)[1].tobytes()


class DataSet:
    """Two splits, the config that reads them, and what is expected of the check."""

    def __init__(self, rng: random.Random, root: Path):
        self.rng, self.root = rng, root
        self.splits = {split: self._split(rng.randint(2, 5)) for split in ('train', 'val')}
        self.raw = {}  # split: what becomes of the bytes of its annotation file
        self.masks = rng.random() < 0.5
        self.classes = CLASSES
        self.num_classes = len(CLASSES)
        self.evaluated = 'val'
        self.files = {}  # image file: content

    def _split(self, number: int) -> dict:
        images = [dict(id=i, file_name=f'{i}.jpg', height=SIZE[0], width=SIZE[1])
                  for i in range(number)]
        annotations = []
        for image in images:
            for label in range(len(CLASSES)):
                x, y = self.rng.randint(0, 20), self.rng.randint(0, 10)
                w, h = self.rng.randint(12, 40), self.rng.randint(12, 36)
                annotations.append(dict(
                    id=len(annotations) + 1, image_id=image['id'], category_id=10 * (label + 1),
                    bbox=[x, y, w, h], area=w * h, iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]]))
        categories = [dict(id=10 * (i + 1), name=name, supercategory='none')
                      for i, name in enumerate(CLASSES)]
        return dict(images=images, annotations=annotations, categories=categories)

    def choose(self, split: str, kind: str) -> dict:
        return self.rng.choice(self.splits[split][kind])

    def any_split(self) -> str:
        return self.rng.choice(('train', 'val'))

    def write(self) -> None:
        for split, content in self.splits.items():
            (self.root / split).mkdir()
            for image in content['images']:
                name = str(image['file_name']).replace('\\', '/')
                if not name:
                    continue
                (self.root / split / name).parent.mkdir(exist_ok=True)
                content_of_image = self.files.get((split, name), _picture())
                if content_of_image is not None:
                    (self.root / split / name).write_bytes(content_of_image)
            text = json.dumps(content).encode()
            text = self.raw[split](text) if split in self.raw else text
            (self.root / f'{split}.json').write_bytes(text)

    def config(self) -> Config:
        def loader(split):
            return dict(batch_size=1, dataset=dict(
                type='CocoDataset', data_root=str(self.root), ann_file=f'{split}.json',
                data_prefix=dict(img=f'{split}/'), metainfo=dict(classes=self.classes),
                test_mode=split != 'train',
                filter_cfg=dict(filter_empty_gt=True, min_size=32) if split == 'train' else None,
                pipeline=[dict(type='LoadImageFromFile'),
                          dict(type='LoadAnnotations', with_bbox=True, with_mask=self.masks)]))

        heads = dict(bbox_head=dict(type='Shared2FCBBoxHead', num_classes=self.num_classes))
        if self.masks:
            heads['mask_head'] = dict(type='FCNMaskHead', num_classes=self.num_classes)
        evaluator = dict(
            type='CocoMetric', ann_file=str(self.root / f'{self.evaluated}.json'),
            metric=['bbox', 'segm'] if self.masks else 'bbox', classwise=True)
        return Config(dict(
            default_scope='mmdet', work_dir=str(self.root / 'work'),
            model=dict(type='MaskRCNN', roi_head=dict(type='StandardRoIHead', **heads)),
            train_dataloader=loader('train'), val_dataloader=loader('val'),
            val_cfg=dict(), train_cfg=dict(), val_evaluator=evaluator))


def _check_labels(dataset, split: str, content: dict) -> None:
    """Every object has to bear the name that the file gives it."""
    name_of = {category['id']: category['name'] for category in content['categories']}
    ids = {Path(str(image['file_name']).replace('\\', '/')).name: image['id']
           for image in content['images']}
    objects = 0
    for index in range(len(dataset)):
        record = dataset.get_data_info(index)
        path = Path(record['img_path'])
        assert path.is_file(), f'{split} reads {path}'
        truth = [item for item in content['annotations'] if item['image_id'] == ids[path.name]]
        for instance in record['instances']:
            x1, y1, x2, y2 = instance['bbox']
            names = {name_of[item['category_id']] for item in truth
                     if np.allclose(item['bbox'], [x1, y1, x2 - x1, y2 - y1], atol=1.)}
            label = dataset.metainfo['classes'][instance['bbox_label']]
            assert label in names, f'{split} calls a {names} {label}'
            objects += 1
    assert objects, f'{split} has no object'


def _perfect_ap(dataset, evaluator) -> dict:
    """COCO AP of predictions that equal the ground truth."""
    metric = METRICS.build({**evaluator, 'metric': 'bbox'})
    metric.dataset_meta = dataset.metainfo
    samples = []
    for index in range(len(dataset)):
        record = dataset.get_data_info(index)
        boxes = np.array([item['bbox'] for item in record['instances']], dtype=np.float32)
        labels = np.array([item['bbox_label'] for item in record['instances']], dtype=np.int64)
        prediction = dict(bboxes=torch.from_numpy(boxes.reshape(-1, 4)),
                          labels=torch.from_numpy(labels), scores=torch.ones(len(labels)))
        samples.append(dict(img_id=record['img_id'], ori_shape=(record['height'], record['width']),
                            pred_instances=prediction))
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def _act(data: DataSet) -> None:
    """Check; then training and evaluation have to see what the files say."""
    cfg = data.config()
    with DefaultScope.overwrite_default_scope('mmdet'):
        check_annotations(cfg, ('train', 'val'))
        datasets = {split: DATASETS.build(copy.deepcopy(cfg[f'{split}_dataloader'].dataset))
                    for split in ('train', 'val')}
        for split, dataset in datasets.items():
            _check_labels(dataset, split, data.splits[split])
        result = _perfect_ap(datasets['val'], cfg.val_evaluator)
    assert result['coco/bbox_mAP'] > 0.999, f'perfect predictions have {result}'


# What is wrong: name, expectation, function that changes a DataSet.
Mutation = tuple[str, str, Callable[[DataSet], None]]


def _each(kind: str, change: Callable[[dict], None]) -> Callable[[DataSet], None]:
    """Change every image, annotation or category of one split."""

    def apply(data: DataSet) -> None:
        for item in data.splits[data.any_split()][kind]:
            change(item)

    return apply


def _one(kind: str, change: Callable[[dict, DataSet], None]) -> Callable[[DataSet], None]:
    return lambda data: change(data.choose(data.any_split(), kind), data)


def _box(*values: float) -> Callable[[DataSet], None]:
    return _one('annotations', lambda item, data: item.update(bbox=list(values)))


def _raw(change: Callable[[bytes, random.Random], bytes]) -> Callable[[DataSet], None]:
    def apply(data: DataSet) -> None:
        data.raw[data.any_split()] = lambda text: change(text, data.rng)

    return apply


def _set(**values) -> Callable[[DataSet], None]:
    return lambda data: vars(data).update(values)


def _file(content) -> Callable[[DataSet], None]:
    def apply(data: DataSet) -> None:
        split = data.any_split()
        data.files[split, data.choose(split, 'images')['file_name']] = content

    return apply


def _reorder(key: Callable) -> Callable[[DataSet], None]:
    def apply(data: DataSet) -> None:
        data.splits[data.any_split()]['categories'].sort(key=key)

    return apply


def _renumber(data: DataSet) -> None:
    """Other ids in one split, so that its categories stand in another order by id, too."""
    split = data.splits[data.any_split()]
    new = {10: 30, 20: 10, 30: 20}
    for category in split['categories']:
        category['id'] = new[category['id']]
    for annotation in split['annotations']:
        annotation['category_id'] = new[annotation['category_id']]
    split['categories'].sort(key=lambda category: category['id'])


def _shuffle_classes(data: DataSet) -> None:
    data.classes = CLASSES[::-1]


def _roboflow(data: DataSet) -> None:
    for split in data.splits.values():
        split['categories'].insert(0, dict(id=0, name=CLASSES[0], supercategory='none'))


def _drop(*keys: str) -> Callable[[dict], None]:
    return lambda item: [item.pop(key, None) for key in keys]


def _masks(segmentation) -> Callable[[DataSet], None]:
    def apply(data: DataSet) -> None:
        data.masks = True
        data.choose(data.any_split(), 'annotations')['segmentation'] = segmentation

    return apply


def _no_masks(data: DataSet) -> None:
    data.masks = True
    for item in data.splits[data.any_split()]['annotations']:
        item.pop('segmentation')


def _normalise(data: DataSet) -> None:
    for item in data.splits[data.any_split()]['annotations']:
        x, y, w, h = item['bbox']
        item['bbox'] = [x / SIZE[1], y / SIZE[0], w / SIZE[1], h / SIZE[0]]


NAN, INF = float('nan'), float('inf')
MUTATIONS: list[Mutation] = [
    ('nothing', 'accept', lambda data: None),
    ('extra keys', 'accept', lambda data: data.splits['train'].update(info={}, licenses=[])),
    ('an image without objects', 'accept', lambda data: data.splits['train']['images'].append(
        dict(id=99, file_name='99.jpg', height=SIZE[0], width=SIZE[1]))),
    ('a box a little outside', 'either', _box(30, 20, 50.5, 40.25)),
    ('classes in another order', 'either', _shuffle_classes),
    ('categories of a split reordered', 'either', _reorder(lambda c: c['name'])),
    ('categories of a split in descending ids', 'either', _reorder(lambda c: -c['id'])),
    ('categories of a split renumbered', 'either', _renumber),
    ('a category twice', 'either', _roboflow),
    ('a misspelt class', 'refuse', _set(classes=('cat', 'Dgo', 'traffic light'))),
    ('another case', 'refuse', _set(classes=('cat', 'dog', 'traffic light'))),
    ('a class that is not there', 'refuse', _set(classes=(*CLASSES, 'bird'), num_classes=4)),
    ('a class twice', 'refuse', _set(classes=('cat', 'cat', 'Dog', 'traffic light'),
                                     num_classes=4)),
    ('classes=(\'cat\')', 'refuse', _set(classes='cat', num_classes=1)),
    ('80 classes in the head', 'refuse', _set(num_classes=80)),
    ('1 class in the head', 'refuse', _set(num_classes=1)),
    ('an evaluator of other images', 'refuse', _set(evaluated='train')),
    ('no annotations', 'refuse', lambda data: data.splits['train'].update(annotations=[])),
    ('no images', 'refuse', lambda data: data.splits[data.any_split()].update(images=[])),
    ('no categories', 'refuse', lambda data: data.splits[data.any_split()].update(categories=[])),
    ('no area', 'either', _each('annotations', _drop('area'))),
    ('no iscrowd', 'either', _each('annotations', _drop('iscrowd'))),
    ('no area in one', 'either', _one('annotations', lambda item, _: item.pop('area', None))),
    ('areas of 0', 'either', _each('annotations', lambda item: item.update(area=0))),
    ('area null', 'either', _one('annotations', lambda item, _: item.update(area=None))),
    ('an id 0', 'either', _each('annotations', lambda item: item.update(id=item['id'] - 1))),
    ('ids of words', 'either', _each('annotations', lambda item: item.update(
        id=f'object {item["id"]}'))),
    ('category ids from 0', 'refuse', _each('annotations', lambda item: item.update(
        category_id=item['category_id'] - 10))),
    ('no bbox in one', 'refuse', _one('annotations', lambda item, _: item.pop('bbox'))),
    ('no masks', 'refuse', _no_masks),
    ('no file_name in one', 'refuse', _one('images', lambda item, _: item.update(file_name=''))),
    ('no height', 'refuse', _each('images', _drop('height'))),
    ('backslashes', 'either', _each('images', lambda item: item.update(
        file_name='folder\\' + str(item['file_name'])))),
    ('an image file is missing', 'refuse', _file(None)),
    ('an image file is empty', 'refuse', _file(b'')),
    ('an image file is a web page', 'refuse', _file(b'<html>404</html>' * 20)),
    ('NaN in a box', 'refuse', _box(NAN, 1, 20, 20)),
    ('infinity in a box', 'refuse', _box(1, 1, INF, 20)),
    ('a box of three numbers', 'refuse', _box(1, 1, 20)),
    ('a box of words', 'refuse', _one('annotations', lambda item, _: item.update(
        bbox=['1', 'b', '2', '3']))),
    ('boxes of one split from 0 to 1', 'refuse', _normalise),
    ('boxes of one split without area', 'refuse', _each('annotations', lambda item: item.update(
        bbox=[*item['bbox'][:2], 0, 0]))),
    ('an image id twice', 'refuse', _one('images', lambda item, data: [
        split['images'].append(dict(item, file_name='other.jpg'))
        for split in data.splits.values() if item in split['images']])),
    ('height and width swapped', 'refuse', _each('images', lambda item: item.update(
        height=item['width'], width=item['height']))),
    ('sizes ten-fold', 'refuse', _each('images', lambda item: item.update(
        height=10 * item['height'], width=10 * item['width']))),
    ('string ids', 'either', _each('images', lambda item: item.update(id=f'{item["id"]}'))),
    ('a truncated file', 'refuse', _raw(lambda text, rng: text[:rng.randrange(len(text))])),
    ('an empty file', 'refuse', _raw(lambda text, rng: b' ')),
    ('UTF-16', 'either', _raw(lambda text, rng: text.decode().encode('utf-16'))),
    ('a byte order mark', 'either', _raw(lambda text, rng: b'\xef\xbb\xbf' + text)),
    ('a list', 'refuse', _raw(lambda text, rng: b'[' + text + b']')),
    ('COCO results', 'refuse', _raw(lambda text, rng: json.dumps(
        [dict(image_id=0, category_id=10, bbox=[1, 2, 3, 4], score=0.5)]).encode())),
    ('a web page', 'refuse', _raw(lambda text, rng: b'<!DOCTYPE html><html></html>')),
    ('a polygon far outside', 'refuse', _masks([[0, 0, 1e9, 0, 1e9, 1e9]])),
    ('NaN in a polygon', 'refuse', _masks([[0, 0, NAN, 0, 9, 9]])),
    ('a polygon of two points', 'either', _masks([[0, 0, 10, 10]])),
    ('a run-length code of another size', 'refuse', _masks(
        dict(size=[9, 9], counts=[40, 41]))),
]


# Each of these may come on top.
HARMLESS = [name for name, expected, _ in MUTATIONS if expected == 'accept']


def generate(rng: random.Random, folder: Path) -> Case:
    """A small data set with one mutation, and perhaps something harmless besides."""
    data = DataSet(rng, folder)
    mutations = {name: (expected, change) for name, expected, change in MUTATIONS}
    name = rng.choice(list(mutations))
    expected, change = mutations[name]
    harmless = rng.choice(HARMLESS)
    if harmless != name:
        mutations[harmless][1](data)
    change(data)
    data.write()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}

    def unchanged() -> None:
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob('*')}

    return Case(name, expected, lambda: _act(data), names=('train', 'val', 'classes'),
                unchanged=unchanged)
