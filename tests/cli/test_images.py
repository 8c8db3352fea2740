"""Which files are images, and which of them can be worked on."""
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from mmcontainer.cli.images import ImageError, check_image, collect_images, readable
from mmcontainer.pillow_limit import pillow_limit_lifted


def names(found):
    return [image.name.as_posix() for image in found.images]


def test_pillows_limit_comes_back_after_all_threads():
    before = Image.MAX_IMAGE_PIXELS
    first, second = pillow_limit_lifted(), pillow_limit_lifted()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS is None
    second.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS == before


@pytest.fixture
def tree(tmp_path):
    for name in ('b.JPG', 'a.png', 'notes.txt', 'clip.gif', 'old.gif', 'sub/a.png',
                 'sub/deep/c.bmp', 'results/b.jpg', 'empty/notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    return tmp_path


def test_files_and_folders(tree):
    found = collect_images([str(tree), str(tree / 'notes.txt'), str(tree / 'empty'), 'gone.jpg'])
    assert names(found) == ['a.png', 'b.JPG', 'notes.txt']
    assert 'empty: a folder without images' in found.problems[0]
    assert found.problems[1] == 'gone.jpg: there is no such file or folder'
    assert len(found.problems) == 2
    assert found.skipped[0] == (
        f'{tree}: left out 3 files without the suffix of an image (2 .gif, 1 .txt) and 3 folders '
        '(--recursive enters them)')


def test_recursive_without_the_results(tree):
    found = collect_images([str(tree)], recursive=True, excluded=str(tree / 'results'))
    assert names(found) == ['a.png', 'b.JPG', 'sub/a.png', 'sub/deep/c.bmp']
    assert '4 files' in found.skipped[0] and '1 folder (links, or' in found.skipped[0]


def test_links_that_lead_in_a_circle_or_nowhere(tree):
    (tree / 'sub' / 'up').symlink_to(tree)
    (tree / 'sub' / 'gone.jpg').symlink_to(tree / 'nothing.jpg')
    found = collect_images([str(tree / 'sub')], recursive=True)
    assert names(found) == ['a.png', 'deep/c.bmp']
    assert 'gone.jpg: no file, or a link to nothing' in found.problems[0]


def test_an_image_named_twice_is_done_once(tree, monkeypatch):
    monkeypatch.chdir(tree)
    found = collect_images(['b.JPG', str(tree), './sub/../a.png'])
    assert names(found) == ['b.JPG', 'a.png']
    assert '2 images named more than once: done once' in found.skipped


def test_names_that_are_no_text(tmp_path):
    path = bytes(tmp_path) + b'/caf\xe9.png'
    with open(path, 'wb'):
        pass
    image = collect_images([str(tmp_path)]).images[0]
    assert readable(image.path) == f'{tmp_path}/caf\\xe9.png'
    readable(image.path).encode('utf-8')


def check(path, **kwargs):
    """The reason against an image; None without one."""
    try:
        assert check_image(str(path), **kwargs) is False
    except ImageError as error:
        return str(error)


def png_header(path, width, height):
    """The first bytes of a PNG, which state its size; the pixels are missing."""
    data = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + struct.pack('>I', len(data)) + b'IHDR' + data
                     + struct.pack('>I', zlib.crc32(b'IHDR' + data)) + b'\0\0\0\0IDAT')


def jpeg_header(path, width, height):
    """A JPEG of 8 x 8 whose header claims another size."""
    content = cv2.imencode('.jpg', np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    at = content.index(b'\xff\xc0') + 5
    path.write_bytes(content[:at] + struct.pack('>HH', height, width) + content[at + 4:])


@pytest.mark.parametrize('write', [png_header, jpeg_header])
def test_too_many_pixels_are_not_decoded(tmp_path, write):
    path = tmp_path / 'large'
    write(path, 20000, 20000)
    assert check(path) == ('20000 x 20000 are 400 million pixels, and --max-pixels allows 89.5 '
                           'million')
    limit = Image.MAX_IMAGE_PIXELS  # less than this
    assert 'million' not in (check(path, max_pixels=400_000_000) or '')
    assert Image.MAX_IMAGE_PIXELS == limit


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp'])
def test_truncated(tmp_path, suffix):
    generator = np.random.default_rng(0)
    path = tmp_path / f'a{suffix}'
    cv2.imwrite(str(path), generator.integers(0, 255, (64, 64, 3), np.uint8))
    assert check(path) is None
    path.write_bytes(path.read_bytes()[:-2000])
    assert 'truncated' in check(path)


@pytest.mark.parametrize('mode, suffix', [
    ('RGBA', 'png'), ('P', 'png'), ('I;16', 'png'), ('1', 'png'), ('CMYK', 'jpg'), ('L', 'jpg'),
    ('LA', 'png')])
def test_every_kind_of_pixel(tmp_path, mode, suffix):
    path = tmp_path / f'a.{suffix}'
    Image.new(mode, (40, 30)).save(path)
    assert check(path) is None


def test_what_pillow_does_not_know_is_left_to_the_decoder(tmp_path):
    path = tmp_path / 'a.jpg'
    for content in (b'', b'no picture', b'\xff\xd8\xff'):
        path.write_bytes(content)
        assert check(path) is None or 'truncated' in check(path)


def test_unreadable_file(tmp_path):
    assert check(tmp_path / 'gone.jpg') == 'No such file or directory'


@pytest.mark.parametrize('suffix', ['gif', 'webp', 'png', 'tif'])
def test_several_pictures_in_one_file(tmp_path, suffix):
    first, second = (Image.new('RGB', (40, 30), colour) for colour in ('red', 'blue'))
    path = tmp_path / f'a.{suffix}'
    first.save(path, save_all=True, append_images=[second])
    assert check_image(str(path))
