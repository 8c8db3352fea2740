"""Mistakes in one annotation file and its images, and their repair."""
import json
import os

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from PIL import Image

from mmcontainer.data_check import annotations as annotations_module
from mmcontainer.data_check import check_annotations, examine, read_annotations
from mmcontainer.errors import UserError

HEIGHT, WIDTH = 40, 60
CLASSES = ('red', 'blue')


@pytest.fixture
def data(tmp_path):
    """A sound data set of two images, to be spoilt before it is written."""
    (tmp_path / 'images').mkdir()
    for name in ('a.jpg', 'b.jpg'):
        cv2.imwrite(str(tmp_path / 'images' / name), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    square = [[5, 5, 25, 5, 25, 25, 5, 25]]
    return dict(
        images=[dict(id=i, file_name=name, height=HEIGHT, width=WIDTH)
                for i, name in enumerate(('a.jpg', 'b.jpg'))],
        annotations=[dict(id=i + 1, image_id=i % 2, category_id=1 + i % 2, bbox=[5, 5, 20, 20],
                          area=400, iscrowd=0, segmentation=square) for i in range(4)],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)])


@pytest.fixture
def make_config(tmp_path):
    def make(content, masks=False, **dataset):
        if content is not None:
            (tmp_path / 'train.json').write_text(json.dumps(content))
        leaf = {**dict(
            type='CocoDataset', data_root=str(tmp_path), ann_file='train.json',
            data_prefix=dict(img='images/'), metainfo=dict(classes=CLASSES),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=[dict(type='LoadImageFromFile'),
                      dict(type='LoadAnnotations', with_mask=masks)]), **dataset}
        wrapped = dict(type='RepeatDataset', times=2, dataset=dict(
            type='ConcatDataset', datasets=[leaf]))
        return Config(dict(default_scope='mmdet', work_dir=str(tmp_path / 'work'), model={},
                           train_dataloader=dict(dataset=wrapped)))

    return make


@pytest.fixture
def refusal(make_config):
    def refuse(content, **kwargs):
        with pytest.raises(UserError) as error:
            check_annotations(make_config(content, **kwargs), ['train'])
        return str(error.value)

    return refuse


def test_a_sound_file_below_wrappers(data, make_config):
    report = check_annotations(make_config(data, masks=True), ['train'])
    assert report.summaries[0].startswith('train: 2 images, 4 objects of 2 classes')
    assert [line.split() for line in report.tables] == [
        ['objects', 'train'], ['red', '2'], ['blue', '2']]
    assert not report.notes


@pytest.mark.parametrize('raw, text', [
    (b'', 'is empty'), (b'{"images": [', 'no whole JSON'), (b'<html>', 'a web page or XML'),
    (b'[{"image_id": 1, "score": 0.5}]', 'results of a detector'), (b'[1]', 'a list'),
    (b'{"shapes": []}', 'no list of entries as images, annotations, categories'),
    ('{}'.encode('utf-16'), 'byte order mark .utf-16'), (b'\xef\xbb\xbf{}', 'utf-8-sig')])
def test_other_files(refusal, tmp_path, raw, text):
    (tmp_path / 'train.json').write_bytes(raw)
    message = refusal(None)
    assert text.replace(' .utf', ' (utf') in message and 'train.json' in message


def _each(key, **changes):
    def change(data):
        for item in data[key]:
            item.update(changes)

    return change


def _one(key, **changes):
    return lambda data: data[key][1].update(changes)


@pytest.mark.parametrize('change, text', [
    (lambda data: data['images'].clear(), 'it has no images'),
    (lambda data: data['annotations'].clear(), 'it has no object of the classes'),
    (_each('images', height=30), 'another size than the annotations say'),
    (_each('images', height=WIDTH, width=HEIGHT), '60 wide and 40 high, 40 and 60 are stated'),
    (_each('images', id=7), '1 id of images occur twice'),
    (_each('images', id='x'), "ids of images are not integers: 'x'"),
    (_one('images', file_name=''), '1 image without file_name'),
    (_one('images', height=None), '1 image without a positive height and width: b.jpg'),
    (_one('images', file_name='c.jpg'), '1 image of 2 are missing'),
    (_one('annotations', bbox=[1, float('nan'), 2, 3]), '1 box with NaN or infinity'),
    (_one('annotations', bbox=[1, 2, 3]), '1 annotation without a bbox of four numbers'),
    (_each('annotations', bbox=[0.1, 0.1, 0.5, 0.5]), 'all boxes lie between 0 and 1'),
    (_each('annotations', bbox=[5, 5, 0, 0]), 'none of 4 boxes is at least 1 x 1 pixel'),
    (_each('annotations', bbox=[50, 50, 200, 200]), 'stick out of their images'),
    (_each('annotations', image_id=9), 'none of 4 objects belongs to an image that is in the file'),
    (_each('annotations', iscrowd=1), 'no object is left to train on'),
    (_one('annotations', segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]]),
     '1 of 4 objects have polygons with coordinates that are infinite, not a number or beyond'),
    (_one('annotations', segmentation=[[0, 0, float('nan'), 0, 9, 9]]), 'beyond 100000 pixels'),
    (_one('annotations', segmentation=[['a', 0, 1, 0, 1, 1]]), 'neither polygons'),
    (_one('annotations', segmentation=dict(size=[9, 9], counts=[81])), 'of another size than'),
    (_one('annotations', segmentation=dict(size=[HEIGHT, WIDTH], counts=[1])),
     'nor RLE masks that cover'),
    (_one('annotations', segmentation=dict(size=[HEIGHT, WIDTH], counts='0' * 9)), 'nor RLE'),
    (_one('annotations', segmentation=[]), '1 of 4 objects have no segmentation')])
def test_what_is_refused(data, refusal, change, text):
    change(data)
    message = refusal(data, masks=True)
    assert text in message and 'train.json' in message


def test_no_image_left(data, refusal):
    message = refusal(data, filter_cfg=dict(filter_empty_gt=True, min_size=50))
    assert 'no image is left to read, of 2; dropped: 2 images smaller than 50 pixels' in message


def test_ten_missing_files_are_named(data, refusal):
    data['images'] = [dict(data['images'][0], id=i, file_name=f'{i}.jpg') for i in range(15)]
    assert '15 images of 15 are missing' in refusal(data) and '(15 in all)' in refusal(data)


@pytest.mark.parametrize('content, text', [(b'', 'are empty'), (b'<html>', 'no readable images')])
def test_images_that_are_none(data, refusal, tmp_path, content, text):
    (tmp_path / 'images' / 'b.jpg').write_bytes(content)
    message = refusal(data)
    assert text in message and 'b.jpg' in message


def turned(path):
    """A camera's picture that viewers, and OpenCV, show 60 wide and 40 high."""
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new('RGB', (HEIGHT, WIDTH)).save(path, exif=exif)


def test_images_of_any_size_are_opened(data, make_config, tmp_path):
    """OpenCV reads what Pillow takes for an attack, a scan of a map, say."""
    width, height = 20_000, 10_000
    Image.new('1', (width, height)).save(tmp_path / 'images' / 'a.png')
    data['images'][0].update(file_name='a.png', width=width, height=height)
    check_annotations(make_config(data), ['train'])


def test_photographs_are_stated_as_the_pipeline_turns_them(data, make_config, refusal, tmp_path):
    turned(tmp_path / 'images' / 'b.jpg')
    check_annotations(make_config(data), ['train'])
    lying = [dict(type='LoadImageFromFile', color_type='color_ignore_orientation')]
    assert '40 wide and 60 high' in refusal(data, pipeline=lying)
    data['images'][1].update(height=WIDTH, width=HEIGHT)
    check_annotations(make_config(data, pipeline=lying), ['train'])
    assert "color_type='color_ignore_orientation'" in refusal(data)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('suffix', ['png', 'webp', 'tiff', 'bmp'])
def test_every_format_is_expected_as_the_decoder_turns_it(data, make_config, refusal, tmp_path,
                                                          suffix, backend):
    """OpenCV turns no WebP, and Pillow states the size of a TIFF as it is when turned."""
    turned(tmp_path / 'images' / f'b.{suffix}')
    loader = dict(type='LoadImageFromFile', imdecode_backend=backend)
    height, width = LoadImageFromFile(imdecode_backend=backend)(
        dict(img_path=str(tmp_path / 'images' / f'b.{suffix}')))['ori_shape']
    data['images'][1].update(file_name=f'b.{suffix}', height=height, width=width)
    check_annotations(make_config(data, pipeline=[loader]), ['train'])
    data['images'][1].update(height=width, width=height)
    assert 'another size than the annotations say' in refusal(data, pipeline=[loader])


def test_wide_grey_images_need_opencv(data, make_config, refusal, tmp_path):
    cv2.imwrite(str(tmp_path / 'images' / 'b.png'), np.full((HEIGHT, WIDTH), 900, np.uint16))
    data['images'][1]['file_name'] = 'b.png'
    check_annotations(make_config(data), ['train'])
    pillow = dict(type='LoadImageFromFile', imdecode_backend='pillow')
    assert "set imdecode_backend='cv2'" in refusal(data, pipeline=[pillow])


def test_images_that_only_the_loader_knows(data, make_config, refusal, tmp_path):
    cv2.imwrite(str(tmp_path / 'images' / 'b.tiff'), np.zeros((HEIGHT, WIDTH, 3), np.float32))
    data['images'][1]['file_name'] = 'b.tiff'
    check_annotations(make_config(data), ['train'])
    np.save(tmp_path / 'images' / 'b.npy', np.zeros((HEIGHT, WIDTH, 9)))
    data['images'][1]['file_name'] = 'b.npy'
    assert 'no readable images' in refusal(data)
    check_annotations(make_config(data, pipeline=[dict(type='LoadArray')]), ['train'])


def test_images_that_are_listed_twice(data, make_config, refusal):
    """What one entry has would be background in the other."""
    data['images'][1]['file_name'] = 'a.jpg'
    data['annotations'] = [{**data['annotations'][i], 'category_id': 1 + i // 2} for i in range(4)]
    report = check_annotations(make_config(data), ['train'])  # with the same objects
    assert 'listed more than once: 1 image: a.jpg.' in ' '.join(report.notes)
    data['annotations'][1]['bbox'] = [6, 6, 20, 20]
    assert 'listed more than once with different objects: 1 image' in refusal(data)


def test_areas_of_0_are_filled_in(data, make_config):
    for item, area in zip(data['annotations'], (0, -5, 400, 400)):
        item['area'] = area
    cfg = make_config(data)
    report = check_annotations(cfg, ['train'])
    assert report.summaries[0].startswith('train: 2 images, 4 objects')
    assert 'area = width x height of the box where it was missing or not pos' in report.notes[-1]
    content = json.loads(open(cfg.train_dataloader.dataset.dataset.datasets[0].ann_file).read())
    assert [item['area'] for item in content['annotations']] == [400] * 4


def test_what_is_dropped_is_said(data, make_config):
    data['annotations'] += [
        dict(data['annotations'][0], id=10, image_id=99), dict(data['annotations'][0], id=11,
                                                               bbox=[5, 5, 0.5, 20]),
        dict(data['annotations'][0], id=12, iscrowd=1)]
    data['images'].append(dict(data['images'][0], id=5))
    notes = ' '.join(check_annotations(make_config(data), ['train']).notes)
    for text in ('1 object of images that are not in the file', '1 box of less than 1 x 1 pixel',
                 'dropped: 1 image without objects', '1 object marked as crowd'):
        assert text in notes


def test_repairs_go_into_a_copy(data, make_config, tmp_path):
    os.makedirs(tmp_path / 'images' / 'sub')
    os.replace(tmp_path / 'images' / 'b.jpg', tmp_path / 'images' / 'sub' / 'b.jpg')
    data['images'][1]['file_name'] = 'sub\\b.jpg'
    del data['annotations'][0]['area'], data['annotations'][1]['iscrowd']
    cfg = make_config(data)
    cfg.train_evaluator = dict(type='CocoMetric', ann_file=str(tmp_path / 'train.json'))
    before = (tmp_path / 'train.json').read_bytes()
    report, _ = examine(make_config(None), ['train'])  # what tools/check_data.py does
    assert not report.problems and not (tmp_path / 'work').exists()
    report = check_annotations(cfg, ['train'])
    leaf = cfg.train_dataloader.dataset.dataset.datasets[0]
    assert cfg.train_evaluator.ann_file == leaf.ann_file and 'repaired' in report.notes[-1]
    content = json.loads(open(leaf.ann_file).read())
    assert content['annotations'][0]['area'] == 400 and content['annotations'][1]['iscrowd'] == 0
    assert content['images'][1]['file_name'] == 'sub/b.jpg'
    assert (tmp_path / 'train.json').read_bytes() == before


def test_large_files_are_read_once(data, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(annotations_module, '_WORTH_KEEPING', 0)
    path = tmp_path / 'train.json'
    path.write_text(json.dumps(data))
    first = read_annotations(path)
    annotations_module._read_once.cache_clear()
    monkeypatch.setattr(annotations_module, 'parse_coco', None)
    again = read_annotations(path)
    assert again.categories == first.categories and again.instances == first.instances == {1: 2,
                                                                                           2: 2}
    for key in ('boxes', 'sizes', 'image', 'masks'):
        np.testing.assert_array_equal(getattr(again, key), getattr(first, key))


def write_voc(root, name, box='<xmin>5</xmin><ymin>5</ymin><xmax>25</xmax><ymax>25</ymax>'):
    for folder in ('Annotations', 'JPEGImages'):
        (root / folder).mkdir(exist_ok=True)
    cv2.imwrite(str(root / 'JPEGImages' / f'{name}.jpg'), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (root / 'Annotations' / f'{name}.xml').write_text(
        f'<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size><object>'
        f'<name>red</name><bndbox>{box}</bndbox></object></annotation>')


def test_voc(make_config, refusal, tmp_path):
    voc = dict(type='VOCDataset', ann_file='list.txt', data_prefix=dict(sub_data_root=''))
    for name in 'ab':
        write_voc(tmp_path, name)
    (tmp_path / 'list.txt').write_text('a\nb\n')
    report = check_annotations(make_config(None, **voc), ['train'])
    assert report.summaries[0].startswith('train: 2 images, 2 objects')
    write_voc(tmp_path, 'b', '<xmin>wide</xmin>')
    assert '1 file of' in refusal(None, **voc) and 'b.xml' in refusal(None, **voc)
    xml = tmp_path / 'Annotations' / 'b.xml'
    write_voc(tmp_path, 'b')
    xml.write_text(xml.read_text().replace('red', ''))
    assert 'b.xml (an object without a name)' in refusal(None, **voc)
    (tmp_path / 'list.txt').write_text('a\nc\n')
    assert 'missing: c.xml' in refusal(None, **voc)
    (tmp_path / 'list.txt').write_text('a\nb \n\n')
    assert 'blanks around a name: 2, 3. Remove' in refusal(None, **voc)
    (tmp_path / 'list.txt').write_text('')
    assert 'a list of the names of images is expected' in refusal(None, **voc)
