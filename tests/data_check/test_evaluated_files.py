"""Ids, areas and masks that training accepts in a file and evaluation does not."""
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

pytest.importorskip('mmdet')
from mmdet.registry import DATASETS, METRICS  # noqa: E402

from mmcontainer.data_check import annotations as annotations_module  # noqa: E402
from mmcontainer.data_check import check_annotations, read_annotations  # noqa: E402
from mmcontainer.errors import UserError  # noqa: E402

SIZE = (40, 60)  # height, width
NAMES = ('red', 'blue')


def content(number=4):
    return dict(
        images=[dict(id=1, file_name='1.png', height=SIZE[0], width=SIZE[1])],
        annotations=[dict(id=i + 1, image_id=1, category_id=1 + i % 2, bbox=[12 * i, 5, 10, 20],
                          area=200, iscrowd=0,
                          segmentation=[[12 * i, 5, 12 * i + 10, 5, 12 * i + 10, 25]])
                     for i in range(number)],
        categories=[dict(id=i, name=name) for i, name in enumerate(NAMES, 1)])


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a file and returns a config that evaluates on it."""

    def write(data, metric='bbox', split='val', folder=tmp_path, **dataset):
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / '1.png'), np.zeros((*SIZE, 3), np.uint8))
        (folder / 'val.json').write_text(json.dumps(data))
        leaf = {**dict(
            type='CocoDataset', data_root=str(folder), ann_file='val.json', test_mode=True,
            data_prefix=dict(img=''), metainfo=dict(classes=NAMES),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]), **dataset}
        return Config({'default_scope': 'mmdet', 'work_dir': str(tmp_path / 'work'), 'model': {},
                       f'{split}_dataloader': dict(dataset=leaf), f'{split}_evaluator': dict(
                           type='CocoMetric', ann_file=str(folder / 'val.json'), metric=metric)})

    return write


def refusal(cfg, splits=('val', )):
    with pytest.raises(UserError) as error:
        check_annotations(cfg, splits)
    return str(error.value)


def perfect_ap(cfg):
    """AP of detections that equal what the data set has read."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
        metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    record = dataset.get_data_info(0)
    found = dict(bboxes=torch.tensor([item['bbox'] for item in record['instances']]).float(),
                 labels=torch.tensor([item['bbox_label'] for item in record['instances']]),
                 scores=torch.ones(len(record['instances'])))
    metric.process({}, [dict(img_id=record['img_id'], ori_shape=SIZE, pred_instances=found)])
    return metric.evaluate(1)['coco/bbox_mAP']


def _number(*ids):
    def change(data):
        for item, number in zip(data['annotations'], ids):
            item['id'] = number

    return change


def _each(**values):
    return lambda data: [item.update(values) for item in data['annotations']]


def _without(*keys):
    return lambda data: [item.pop(key) for item in data['annotations'] for key in keys]


@pytest.mark.parametrize('change, text', [
    (_number(0, 1, 2, 3), 'ids of objects are 1, 2, 3'),
    (_number(5, 5, 6, 6), 'ids of objects are'), (_number('a', 'b', 'c', 'd'), 'ids of objects'),
    (_without('id'), 'ids of objects are'), (_without('area'), 'area = width x height'),
    (_each(area=None), 'area = '), (_each(area=float('nan')), 'area = '), (_each(area=0), 'area ='),
    (_without('iscrowd'), 'iscrowd = 0'), (_each(iscrowd=None), 'iscrowd = 0'),
    (_without('area', 'iscrowd', 'id'), 'area = width x height')])
def test_perfect_detections_are_perfect_after_repairs(make, change, text):
    data = content()
    change(data)
    cfg = make(data)
    assert text in check_annotations(cfg, ['val']).notes[-1]
    assert perfect_ap(cfg) == pytest.approx(1)
    assert json.loads(Path(cfg.val_evaluator.ann_file).read_text())['annotations'][0]['area'] == 200


def test_an_evaluator_with_a_copy_of_the_file_gets_the_repairs(make, tmp_path):
    data = content()
    _without('area', 'id')(data)
    cfg = make(data)
    cfg.val_evaluator.ann_file = str(tmp_path / 'copy.json')
    shutil.copy(tmp_path / 'val.json', tmp_path / 'copy.json')
    check_annotations(cfg, ['val'])
    assert perfect_ap(cfg) == pytest.approx(1)


def test_what_the_repair_of_ids_is_for(make):
    """COCO's evaluation takes the id 0 for "nothing found"."""
    data = content()
    _number(0, 1, 2, 3)(data)
    assert perfect_ap(make(data)) < 0.9


def test_files_of_one_name_get_copies_of_their_own(make, tmp_path):
    """Also below ConcatDataset and in an evaluator of several metrics."""
    parts = [make({**content(number)}, folder=tmp_path / f'{number}') for number in (2, 3)]
    for number in (2, 3):
        data = content(number)
        _without('area')(data)
        (tmp_path / f'{number}' / 'val.json').write_text(json.dumps(data))
    cfg = parts[0]
    leaves = [part.val_dataloader.dataset for part in parts]
    metrics = [part.val_evaluator for part in parts]
    cfg.val_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=leaves))
    cfg.val_evaluator = dict(type='MultiDatasetsEvaluator', metrics=metrics)
    check_annotations(cfg, ['val'])
    files = [leaf.ann_file for leaf in cfg.val_dataloader.dataset.datasets]
    assert [metric.ann_file for metric in cfg.val_evaluator.metrics] == files
    assert [len(json.loads(Path(file).read_text())['annotations']) for file in files] == [2, 3]


def test_no_place_for_a_copy(make, tmp_path):
    data = content()
    _without('area')(data)
    cfg = make(data)
    (tmp_path / 'work').write_text('a file')
    assert 'needs a repaired copy' in refusal(cfg)


@pytest.mark.parametrize('change, text', [
    (_each(category_id=0), "category_id of 4 objects is 0, but the categories are 1, 2"),
    (_each(category_id='1'), "category_id of 4 objects is no integer: '1'"),
    (_each(image_id='1'), "image_id of 4 objects is no integer: '1'"),
    (_each(image_id=[1]), 'image_id of 4 objects is no integer'),
    (_each(iscrowd='0'), "iscrowd of objects has to be 0 or 1, not '0'"),
    (_each(bbox=[30, 30, -10, 5]), '4 of 4 boxes have a negative width or height')])
def test_what_is_refused(make, change, text):
    data = content()
    change(data)
    assert text in refusal(make(data))


def test_ids_that_a_program_wrote_as_floats(make):
    data = content()
    _each(image_id=1.0, category_id=2.0)(data)
    cfg = make(data)
    assert not check_annotations(cfg, ['val']).notes
    assert perfect_ap(cfg) == pytest.approx(1)


@pytest.mark.parametrize('masks, text', [
    (None, 'no segmentation'), ([], 'no segmentation'), ([[1, 2, 3, 4]], 'fewer than three points'),
    ([[1, 2, 3, 4, 5, 6, 7]], 'odd number'), ([[0, 0, 1e9, 0, 1e9, 1e9]], 'beyond 100000 pixels'),
    (dict(size=[9, 9], counts=[81]), 'of another size'), ('abc', 'neither polygons'),
    (dict(size=list(SIZE), counts=[1, -1, 2400]), 'neither polygons')])
def test_masks_matter_where_they_are_evaluated(make, masks, text):
    data = content()
    data['annotations'][1]['segmentation'] = masks
    assert not check_annotations(make(data), ['val']).problems
    message = refusal(make(data, metric=['bbox', 'segm']))
    assert text in message and '1 of 4 objects' in message and 'numbers 2 in' in message


def test_masks_that_only_training_skips(make):
    data = content()
    data['annotations'][1]['segmentation'] = [[1, 2, 3, 4]]
    loads = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True)]
    cfg = make(data, split='train', test_mode=False, pipeline=loads)
    assert 'fewer than three points' in check_annotations(cfg, ['train']).notes[0]


def test_a_mask_head_without_masks(make):
    cfg = make(content(), split='train', test_mode=False)
    cfg.model = dict(roi_head=dict(mask_head=dict(type='FCNMaskHead', num_classes=2)))
    assert 'the pipeline loads no masks' in refusal(cfg, ['train'])


def test_run_length_codes_as_pycocotools_writes_them(make):
    from pycocotools import mask as rle
    rng = np.random.default_rng(0)
    data = content()
    for item in data['annotations']:
        picture = rng.random(SIZE) < rng.random()
        code = rle.encode(np.asfortranarray(picture.astype(np.uint8)))
        item['segmentation'] = dict(size=list(SIZE), counts=code['counts'].decode())
    cfg = make(data, metric='segm')
    assert not check_annotations(cfg, ['val']).notes
    data['annotations'][0]['segmentation']['counts'] += '1'
    assert 'neither polygons' in refusal(make(data, metric='segm'))


@pytest.mark.parametrize('split, is_fine', [('train', False), ('test', True)])
@pytest.mark.parametrize('change', [lambda data: data.pop('annotations'),
                                    lambda data: data['annotations'].clear()])
def test_secret_objects_of_a_test_set(make, split, is_fine, change):
    data = content()
    change(data)
    cfg = make(data, split=split, test_mode=split == 'test')
    if is_fine:
        assert 'AP could be computed' in check_annotations(cfg, [split]).notes[0]
    else:
        assert 'no object of the classes' in refusal(cfg, [split])


def test_images_that_end_early(make, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    cfg = make(content())
    for suffix in ('.png', '.jpg'):
        data = cv2.imencode(suffix, noise)[1].tobytes()
        (tmp_path / '1.png').write_bytes(data + bytes(100))  # something behind the end is usual
        check_annotations(cfg, ['val'])
        (tmp_path / '1.png').write_bytes(data[:len(data) // 2])
        assert '1 file of 1 examined are no readable images' in refusal(cfg)


def test_a_broken_cache_is_read_anew(make, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(annotations_module, '_WORTH_KEEPING', 0)
    make(content())
    read_annotations(tmp_path / 'val.json')
    kept, = (tmp_path / 'cache').rglob('*.npz')
    kept.write_bytes(kept.read_bytes()[:-200])
    annotations_module._read_once.cache_clear()
    assert read_annotations(tmp_path / 'val.json').instances == {1: 2, 2: 2}
    make(content(2))  # a changed file replaces what was kept of it
    read_annotations(tmp_path / 'val.json')
    assert len(list((tmp_path / 'cache').rglob('*.npz'))) == 1


@pytest.mark.parametrize('corners', ['25 5 5 25', '5 5 5 25', 'nan 5 25 25'])
def test_boxes_of_voc(tmp_path, corners):
    sides = ''.join(f'<{key}>{value}</{key}>' for key, value in zip(
        ('xmin', 'ymin', 'xmax', 'ymax'), corners.split()))
    for folder in ('xml', 'pictures'):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / 'pictures' / 'a.jpg'), np.zeros((*SIZE, 3), np.uint8))
    (tmp_path / 'list.txt').write_text('a\n')
    leaf = dict(type='VOCDataset', data_root=str(tmp_path), ann_file='list.txt', test_mode=True,
                data_prefix=dict(sub_data_root=''), ann_subdir='xml', img_subdir='pictures',
                metainfo=dict(classes=NAMES), pipeline=[])
    cfg = Config(dict(default_scope='mmdet', work_dir=str(tmp_path / 'work'), model={},
                      val_dataloader=dict(dataset=leaf)))

    def write(inside):
        (tmp_path / 'xml' / 'a.xml').write_text(
            f'<annotation><object><name>red</name><bndbox>{inside}</bndbox></object></annotation>')

    write(sides)
    assert 'a.xml (a box from' in refusal(cfg)
    write('<xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax>')
    check_annotations(cfg, ['val'])
