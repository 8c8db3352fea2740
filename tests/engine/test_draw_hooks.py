"""Pictures of --show-dir: one for each image, on the pixels that the network saw."""
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmcv.ops')

from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402
from PIL import Image  # noqa: E402

from mmcontainer.cli.evaluate import _draw_predictions  # noqa: E402
from mmcontainer.engine.draw_hooks import (
    DrawDetectionsHook,  # noqa: E402
    DrawLabelsHook,  # noqa: E402
    PictureNames,  # noqa: E402
)
from mmcontainer.errors import UserError  # noqa: E402


class Images(list):
    """A data set of image files."""
    metainfo = dict(classes=('bright', ), palette=[(255, 0, 0)])

    def get_data_info(self, index):
        return dict(img_path=str(self[index]))


def make_runner(files, loader):
    init_default_scope('mmdet')
    pipeline = [dict(type='LoadImageFromFile', **loader), dict(type='LoadAnnotations')]
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    return SimpleNamespace(cfg=cfg, test_dataloader=SimpleNamespace(dataset=Images(files)))


def draw(files, out, loader=None, box=(10, 6, 40, 26), score=0.9):
    runner, hook = make_runner(files, loader or {}), DrawDetectionsHook(str(out))
    hook.before_test(runner)
    for file in files:
        boxes, labels = torch.tensor([box], dtype=torch.float32), torch.zeros(1, dtype=torch.long)
        hook.after_test_iter(runner, 0, outputs=[DetDataSample(
            metainfo=dict(img_path=str(file)),
            gt_instances=InstanceData(bboxes=boxes, labels=labels),
            pred_instances=InstanceData(bboxes=boxes, labels=labels,
                                        scores=torch.tensor([score])))])
    return sorted(path.relative_to(out).as_posix() for path in out.rglob('*') if path.is_file())


def write(path, size=(80, 60), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (128, 128, 128)).save(path, **options)
    return path


def test_pictures_of_one_name_in_different_folders(tmp_path):
    names = ['a/1.png', 'b/1.png', 'b/c/1.png', 'b/1.jpg', 'b/1.bmp']
    files = [write(tmp_path / 'images' / name) for name in names]
    assert draw(files, tmp_path / 'out') == sorted(
        ['a/1.png', 'b/1.png', 'b/c/1.png', 'b/1.jpg', 'b/1.bmp.jpg'])
    picture = cv2.imread(str(tmp_path / 'out' / 'a' / '1.png'))
    assert picture.shape == (720, 2 * 960, 3)  # ground truth and detections, enlarged


def test_one_folder_needs_no_folders(tmp_path):
    files = [write(tmp_path / 'images' / name) for name in ('1.jpg', '2.jpg')]
    assert draw(files, tmp_path / 'out') == ['1.jpg', '2.jpg']


@pytest.mark.parametrize('ignore', [False, True])
def test_orientation_is_that_of_the_pipeline(tmp_path, ignore):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    file = write(tmp_path / 'a.jpg', exif=exif)
    draw([file], tmp_path / 'out', dict(color_type='color_ignore_orientation') if ignore else {})
    height, width = cv2.imread(str(tmp_path / 'out' / 'a.jpg')).shape[:2]
    assert (height, width / 2) == ((720, 960) if ignore else (960, 720))


@pytest.mark.parametrize('folder', ['images', '.', 'link'])
def test_pictures_never_replace_images(tmp_path, folder):
    files = [write(tmp_path / 'images' / name) for name in ('a.jpg', 'images/a.jpg')]
    (tmp_path / 'link').symlink_to(tmp_path / 'images')
    before = Path(files[0]).read_bytes()
    with pytest.raises(UserError, match='would replace them'):
        draw(files, tmp_path / folder)
    assert Path(files[0]).read_bytes() == before


def test_scores_below_the_threshold(tmp_path):
    file = write(tmp_path / 'a.png')
    draw([file], tmp_path / 'out', score=0.1)
    truth, found = np.split(cv2.imread(str(tmp_path / 'out' / 'a.png')), 2, axis=1)
    assert (found == 128).all() and (truth != 128).any()


def test_names_of_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = PictureNames(tmp_path / 'out', ['x/a/1.jpg', str(tmp_path / 'x' / 'b' / '1.webp')])
    assert names('x/a/1.jpg') == tmp_path / 'out' / 'a' / '1.jpg'
    assert names('x/b/1.webp') == tmp_path / 'out' / 'b' / '1.webp.jpg'


@pytest.mark.parametrize('scope, hook', [('mmdet', DrawDetectionsHook),
                                         ('mmpretrain', DrawLabelsHook)])
def test_show_dir_adds_the_hook(tmp_path, monkeypatch, scope, hook):
    monkeypatch.chdir(tmp_path)
    cfg = Config(dict(default_scope=scope, custom_hooks=[dict(type='A')]))
    _draw_predictions(cfg, 'drawn')
    assert cfg.custom_hooks[0].type == 'A'
    assert cfg.custom_hooks[1].type == hook.__name__
    assert cfg.custom_hooks[1].out_dir == str(tmp_path / 'drawn')


def test_hooks_that_were_set_to_none():
    cfg = Config(dict(default_scope='mmdet', custom_hooks=None, default_hooks=None))
    _draw_predictions(cfg, 'drawn')
    assert len(cfg.custom_hooks) == 1


def test_threshold_of_the_config(tmp_path):
    cfg = Config(dict(default_scope='mmdet', default_hooks=dict(
        visualization=dict(type='DetVisualizationHook', score_thr=0.5))))
    _draw_predictions(cfg, str(tmp_path))
    assert cfg.custom_hooks[0].score_thr == 0.5


def test_classified_pictures_of_one_name_in_folders_of_one_name(tmp_path):
    files = [tmp_path / name for name in ('a/cat/1.jpg', 'b/cat/1.jpg', 'b/cat/1.png')]
    drawn = {}

    def record(image, sample, resize, out_file):
        drawn[out_file] = image.shape

    runner = SimpleNamespace(
        model=SimpleNamespace(data_preprocessor=SimpleNamespace(to_rgb=False)),
        visualizer=SimpleNamespace(visualize_cls=record),
        test_dataloader=SimpleNamespace(dataset=Images(files)))
    hook = DrawLabelsHook(str(tmp_path / 'out'))
    hook.before_test(runner)
    grey = torch.zeros(3, 1, 6, 5)
    augmented = [list(grey), list(torch.zeros(3, 1, 9, 9))]
    for inputs in (grey, augmented):
        drawn.clear()
        hook.after_test_iter(runner, 0, dict(inputs=inputs),
                             [SimpleNamespace(img_path=str(file)) for file in files])
        assert drawn == {str(tmp_path / 'out' / file.relative_to(tmp_path)): (6, 5, 3)
                         for file in files}
