"""Segmentation maps that cannot be used, before anything is trained on them."""
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmcontainer.data_check import check_annotations, examine
from mmcontainer.errors import UserError

pytest.importorskip('mmseg', reason='needs MMSegmentation: make test-seg')

CLASSES = ('sky', 'tree', 'road')


@pytest.fixture
def folder(tmp_path):
    """Four images of 20 x 12 pixels with maps of all classes and ignored pixels."""
    for part in ('images', 'maps'):
        (tmp_path / part).mkdir()
    for number in range(4):
        Image.new('RGB', (20, 12)).save(tmp_path / 'images' / f'{number}.jpg')
        values = np.arange(240).reshape(12, 20) % 3
        values[0] = 255
        write(tmp_path / 'maps' / f'{number}.png', values)
    return tmp_path


def write(path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def make_config(folder, heads=3, **dataset):
    return Config(dict(
        default_scope='mmseg', work_dir=str(folder / 'work'),
        model=dict(type='EncoderDecoder', decode_head=dict(type='FCNHead', num_classes=heads)),
        train_dataloader=dict(dataset=dict(
            type='RepeatDataset', times=2, dataset={
                'type': 'BaseSegDataset', 'data_root': str(folder),
                'data_prefix': dict(img_path='images', seg_map_path='maps'),
                'metainfo': dict(classes=CLASSES), 'pipeline': [], **dataset}))))


def refusal(cfg):
    with pytest.raises(UserError) as caught:
        check_annotations(cfg, ['train'])
    return str(caught.value)


def test_sound_data(folder):
    report, _ = examine(make_config(folder), ['train'])
    assert not report.problems and report.summaries == ['train: 4 images, 4 with a map']


def test_missing_map(folder):
    (folder / 'maps' / '2.png').unlink()
    message = refusal(make_config(folder))
    assert '1 image of 4 have no map' in message and '2.png' in message


def test_another_suffix(folder):
    assert "no images that end with '.jpeg'" in refusal(make_config(folder, img_suffix='.jpeg'))
    assert '4 images of 4 have no map' in refusal(make_config(folder, seg_map_suffix='_map.png'))


@pytest.mark.parametrize('values, text', [
    (np.full((12, 20), 3), 'it has 3, but values from 0 to 2'),
    (np.zeros((20, 12)), '12 wide and 20 high, but its image 20 and 12'),
    (np.zeros((12, 20, 3)), 'colours have to be replaced'),
])
def test_maps_that_are_none(folder, values, text):
    write(folder / 'maps' / '1.png', values)
    message = refusal(make_config(folder))
    assert text in message and '1 of 4 maps examined' in message and '1.png' in message


def test_broken_map(folder):
    (folder / 'maps' / '1.png').write_bytes(b'no picture')
    assert 'no readable image' in refusal(make_config(folder))


def test_maps_of_one_bit(folder):
    for file in (folder / 'maps').iterdir():
        Image.fromarray(np.arange(240).reshape(12, 20) % 2 == 1).save(file)
    check_annotations(make_config(folder), ['train'])


def test_zero_is_nothing_with_reduce_zero_label(folder):
    write(folder / 'maps' / '1.png', np.full((12, 20), 3))
    check_annotations(make_config(folder, reduce_zero_label=True), ['train'])
    write(folder / 'maps' / '1.png', np.full((12, 20), 4))
    assert 'values from 0 to 3' in refusal(make_config(folder, reduce_zero_label=True))


def test_heads_of_another_number_of_classes(folder):
    message = refusal(make_config(folder, heads=19))
    assert 'model.decode_head.num_classes=19' in message and '3 classes' in message


def test_classes_that_the_data_set_does_not_have(folder):
    cfg = make_config(folder, type='ADE20KDataset', metainfo=dict(classes=('wall', 'spaceship')))
    assert 'spaceship' in refusal(cfg) and 'not a subset' in refusal(cfg)
