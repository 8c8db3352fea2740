"""Segmentation maps of the generated data set."""
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from mmcontainer.demo import CLASSES, MAP_CLASSES, ShapesParams, generate_shapes, write_maps
from mmcontainer.demo.shapes import main

PARAMS = ShapesParams(num_train=6, num_val=4, size=64)


@pytest.fixture
def shapes(tmp_path):
    generate_shapes(tmp_path / 'shapes', PARAMS)
    return tmp_path / 'shapes'


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_every_pixel_is_that_of_the_object_which_is_seen_there(shapes):
    assert write_maps(shapes)
    seen = set()
    for split in ('train', 'val'):
        coco = json.loads((shapes / 'annotations' / f'instances_{split}.json').read_text())
        for image in coco['images']:
            values = read(shapes / 'maps' / split / image['file_name'].replace('.jpg', '.png'))
            assert values.shape == (64, 64) and values.dtype == np.uint8
            covered = np.zeros((64, 64), bool)
            for entry in coco['annotations']:
                if entry['image_id'] == image['id']:
                    mask = rle.decode(entry['segmentation']).astype(bool)
                    assert (values[mask] == entry['category_id']).all()
                    covered |= mask
            assert (values[~covered] == 0).all()
            seen |= set(np.unique(values).tolist())
    assert seen == set(range(len(MAP_CLASSES))) and MAP_CLASSES[1:] == CLASSES


def test_nothing_is_written_twice_or_over_anything(shapes):
    write_maps(shapes)
    first = (shapes / 'maps' / 'val' / '000001.png')
    before = first.stat().st_mtime_ns
    assert not write_maps(shapes) and first.stat().st_mtime_ns == before
    assert not generate_shapes(shapes, PARAMS)
    first.unlink()
    with pytest.raises(FileExistsError, match='000001.png is missing'):
        write_maps(shapes)


def test_a_failure_leaves_nothing(shapes, monkeypatch):
    monkeypatch.setattr(cv2, 'imencode', lambda *_: (False, None))
    before = sorted(shapes.iterdir())
    with pytest.raises(OSError, match='could not encode'):
        write_maps(shapes)
    assert sorted(shapes.iterdir()) == before


def test_a_folder_without_a_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no generated data set'):
        write_maps(tmp_path)


def test_command_line(tmp_path, capsys):
    arguments = [str(tmp_path / 'out'), '--num-train', '2', '--num-val', '1', '--size', '64']
    assert main(arguments) == 0 and not (tmp_path / 'out' / 'maps').exists()
    assert main([*arguments, '--maps']) == 0 and 'maps written' in capsys.readouterr().out
    assert len(list((tmp_path / 'out' / 'maps').glob('*/*.png'))) == 3
