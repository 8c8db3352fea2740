"""Image files of all kinds, names and states, through what tools/infer.py does with each."""
import io
import os
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from PIL import Image, ImageOps
from torch import nn, zeros

from mmcontainer.api.detector import Detector
from mmcontainer.cli.images import ImageError, check_image
from mmcontainer.errors import UserError

from .harness import Case

MAX_PIXELS = 1_000_000
KINDS = {  # suffix: modes that the format can hold
    'jpg': ('RGB', 'L', 'CMYK'), 'png': ('RGB', 'RGBA', 'L', 'LA', 'P', '1', 'I;16'),
    'bmp': ('RGB', 'L'), 'webp': ('RGB', 'RGBA'), 'tif': ('RGB', 'L'), 'ppm': ('RGB', )}
NAMES = ('plain', 'with blank', 'per%cent', 'ünïcode 图', '-dash', 'a.b.c', "quote'", 'new\nline')
SIZES = ((40, 60), (1, 1), (300, 1), (1, 300), (2000, 3), (33, 31), (200, 333), (64, 48), (97, 101))


class _Network(nn.Module):
    """Finds one object that fills the image."""

    def test_step(self, batch: dict) -> list[DetDataSample]:
        sample, pixels = batch['data_samples'][0], batch['inputs'][0]
        assert pixels.shape[0] == 3 and pixels.numel(), f'the network gets {pixels.shape}'
        height, width = sample.ori_shape
        sample.pred_instances = InstanceData(
            bboxes=zeros(1, 4) + zeros(1, 4).new_tensor([[0, 0, width, height]]),
            scores=zeros(1) + 1, labels=zeros(1).long())
        return [sample]


@lru_cache
def _detector() -> Detector:
    pipeline = [dict(type='LoadImageFromFile'),
                dict(type='Resize', scale=(133, 80), keep_ratio=True),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='PackDetInputs', meta_keys=(
                    'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
    cfg = Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=dict(
        type='CocoDataset', pipeline=pipeline))))
    with DefaultScope.overwrite_default_scope('mmdet'):
        network = _Network()
        network.dataset_meta = dict(classes=('everything', ))
        return Detector.from_model(network, cfg)


def _picture(rng: random.Random, mode: str, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 255, (*size, 4), np.uint8)
    if mode == 'I;16':
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
    return Image.fromarray(pixels, 'RGBA').convert('RGB' if mode == 'CMYK' else mode).convert(mode)


def _huge(content: bytes, rng: random.Random) -> bytes:
    """A JPEG whose header states 20000 x 20000 pixels."""
    start = max(content.find(b'\xff\xc0'), content.find(b'\xff\xc2')) + 5
    return content[:start] + (20000).to_bytes(2, 'big') * 2 + content[start + 4:]


def _flip(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


DAMAGES = [
    ('nothing', 'accept', lambda content, rng: content),
    ('truncated', 'either', lambda content, rng: content[:rng.randrange(len(content))]),
    ('cut to its header', 'refuse', lambda content, rng: content[:12]),
    ('empty', 'refuse', lambda content, rng: b''),
    ('a web page', 'refuse', lambda content, rng: b'<html>404</html>'),
    ('noise', 'refuse', lambda content, rng: rng.randbytes(400)),
    ('a flipped bit', 'either', _flip),
    ('a header that states 20000 x 20000', 'refuse', _huge),
]


def generate(rng: random.Random, folder: Path) -> Case:
    """An image of some kind, size, orientation and name, whole or damaged."""
    damage, expected, change = rng.choice((DAMAGES[0], rng.choice(DAMAGES)))
    suffix = 'jpg' if 'header' in damage else rng.choice(list(KINDS))
    mode, size = rng.choice(KINDS[suffix]), rng.choice(SIZES)
    picture = _picture(rng, mode, size)
    exif = Image.Exif()
    exif[0x112] = orientation = rng.randint(1, 8) if suffix == 'jpg' else 1
    buffer = io.BytesIO()
    picture.save(buffer, {'jpg': 'JPEG', 'tif': 'TIFF'}.get(suffix, suffix.upper()),
                 **dict(exif=exif) if suffix == 'jpg' else {})
    name = f'{rng.choice(NAMES)}.{suffix}'
    path = os.path.join(folder, name)
    if rng.random() < 0.1:
        path = os.path.join(folder, os.fsdecode(b'caf\xe9.' + suffix.encode()))
    with open(path, 'wb') as file:
        file.write(change(buffer.getvalue(), rng))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))).size[::-1]
    # The pipeline resizes the longer side to 133, which leaves nothing of the shorter one.
    if expected == 'accept' and max(size) > 133 * 2 * min(size):
        expected = 'either'

    def act() -> None:
        try:
            check_image(path, MAX_PIXELS)
            with DefaultScope.overwrite_default_scope('mmdet'):
                read = _detector().read(path)
                found, = _detector().predict([read])
        except ImageError as error:  # tools/infer.py goes on with the next image
            raise UserError(f'{name} of the folder, this image: {error}') from error
        pixels = read.pixels
        assert pixels.shape[:2] == (found.height, found.width)
        if damage == 'nothing':
            assert pixels.shape[:2] == upright, f'{pixels.shape}, {upright} expected'
            if (suffix, mode) in (('png', 'RGB'), ('bmp', 'RGB'), ('ppm', 'RGB')):
                assert np.array_equal(pixels[..., ::-1], np.array(picture))

    return Case(f'{suffix}, {mode}, {size[0]} x {size[1]}, orientation {orientation}, {damage}, '
                f'{name!r}', expected, act, names=(name, ))
