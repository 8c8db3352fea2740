"""The parts of tools/infer.py that need no detector. The whole: tests/e2e/test_tools.py."""
import cv2
import numpy as np
import pytest

from mmcontainer.engine.errors import UserError
from mmcontainer.engine.inference import (
    OutputNames,
    choose_device,
    collect_images,
    read_image,
    write_atomically,
)


def test_files_and_folders(tmp_path):
    for name in ('b.JPG', 'a.png', 'notes.txt'):
        (tmp_path / name).write_bytes(b'')
    (tmp_path / 'empty').mkdir()
    images, problems = collect_images(
        [str(tmp_path), str(tmp_path / 'notes.txt'), str(tmp_path / 'empty'), 'gone.jpg'])
    assert [image.name for image in images] == ['a.png', 'b.JPG', 'notes.txt']
    assert 'empty' in problems[0] and 'gone.jpg' in problems[1] and len(problems) == 2


def test_unreadable_images(tmp_path):
    good, text, empty = (tmp_path / name for name in ('good.png', 'text.jpg', 'empty.jpg'))
    cv2.imwrite(str(good), np.full((4, 5), 200, np.uint8))
    text.write_text('no picture')
    empty.write_bytes(b'')
    assert read_image(good).shape == (4, 5, 3)  # grey becomes colour
    assert read_image(text) is None
    assert read_image(empty) is None


def test_output_names_never_meet(tmp_path):
    images = [tmp_path / 'x' / '1.png', tmp_path / 'y' / '1.jpg', tmp_path / 'out' / '2.jpg']
    names = OutputNames(tmp_path / 'out', images)
    written = [names(image).name for image in images]
    assert written == ['1.jpg', '1_2.jpg', '2_2.jpg']  # the last would have replaced its input


def test_device_that_does_not_exist():
    assert choose_device('cpu') == 'cpu'
    for name in ('cuda:99', 'toaster'):
        with pytest.raises(UserError, match=f'--device {name}'):
            choose_device(name)


def test_failed_write_leaves_nothing_behind(tmp_path):
    target = tmp_path / 'a.json'
    target.write_text('old')

    def write(path):
        with open(path, 'w') as file:
            file.write('half')
        raise RuntimeError('disk full')

    with pytest.raises(RuntimeError):
        write_atomically(target, write)
    assert target.read_text() == 'old'
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']
