"""Detections drawn on pictures: where they lie, and that they can be read."""
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip('mmcv.ops')

from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.bbox import HorizontalBoxes  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from mmcontainer.visualization.detections import (  # noqa: E402
    DetectionVisualizer,
    as_rgb,
    style_of,
)

META = dict(classes=('circle', 'triangle'), palette=[(255, 0, 0), (0, 0, 255)])
RED, BLUE = (255, 0, 0), (0, 0, 255)


def instances(boxes, labels=None, **more):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor(labels or [0] * len(boxes), dtype=torch.long)
    return InstanceData(bboxes=boxes, labels=labels, **more)


def make_sample(boxes, scores, labels=None, **more):
    return DetDataSample(gt_instances=instances(boxes[:1]), pred_instances=instances(
        boxes, labels, scores=torch.tensor(scores), **more))


def frame(picture, colour):
    ys, xs = np.nonzero(np.abs(picture.astype(int) - colour).max(-1) < 60)
    return [xs.min(), ys.min(), xs.max(), ys.max()]


def grey(height, width):
    return np.full((height, width, 3), 128, np.uint8)


@pytest.fixture
def labels(monkeypatch):
    """(text, x0, y0, x1, y1) of all labels that are drawn, in pixels, y upwards."""
    drawn, original = [], DetectionVisualizer.draw_texts

    def record(self, *args, **kwargs):
        original(self, *args, **kwargs)
        label = self.ax_save.texts[-1]
        extent = label.get_window_extent(self.fig_save_canvas.get_renderer())
        drawn.append((label.get_text(), *extent.extents))
        return self

    monkeypatch.setattr(DetectionVisualizer, 'draw_texts', record)
    return drawn


@pytest.mark.parametrize('size, sides, shape', [
    ((64, 96), (960, 4096), (640, 960)), ((64, 96), (480, 480), (320, 480)),
    ((1000, 500), (960, 4096), (1000, 500)), ((900, 300), (100, 300), (300, 100)),
    ((1, 3000), (960, 2000), (1, 2000)),
])
def test_boxes_lie_where_they_belong_on_enlarged_pictures(size, sides, shape):
    height, width = size
    box = np.array([0.2 * width, 0.2 * height, 0.7 * width, 0.8 * height])
    sample = make_sample([box.tolist()], [0.9])
    visualizer = DetectionVisualizer(META, sides=sides, alpha=1.)
    picture = visualizer.draw(grey(*size), sample, 0.3)
    assert picture.shape == (*shape, 3)
    if min(shape) > 50:
        expected = box * np.tile([shape[1] / width, shape[0] / height], 2)
        np.testing.assert_allclose(frame(picture, RED), expected, atol=4)
    both = visualizer.draw(grey(*size), sample, 0.3, truth=True)
    assert both.shape == (shape[0], 2 * shape[1], 3)


def test_labels_leave_small_objects_visible(labels):
    """On a picture of 96 x 64 a label at its own size would be wider than most objects."""
    DetectionVisualizer(META).draw(grey(64, 96), make_sample([[30, 20, 60, 50]], [0.9]), 0.3)
    (_, x0, y0, x1, y1), = labels
    assert (x1 - x0) * (y1 - y0) < 0.1 * 300 * 300  # of the object's area on the canvas


def test_scores_are_written_from_0_to_1(labels):
    sample = make_sample([[10, 10, 40, 40], [50, 20, 80, 60], [1, 1, 9, 9]], [0.876, 0.3, 0.2],
                         [0, 1, 0])
    DetectionVisualizer(META).draw(grey(64, 96), sample, 0.3, truth=True)
    assert [label[0] for label in labels] == ['circle', 'circle: 0.88', 'triangle: 0.30']
    del labels[:]
    DetectionVisualizer(dict(classes=None)).draw(grey(64, 96), sample, 0.5)
    assert [label[0] for label in labels] == ['class 0: 0.88']


@pytest.mark.parametrize('sides', [(480, 480), (960, 4096)])
@pytest.mark.parametrize('box', [
    [0, 0, 20, 20], [90, 2, 96, 20], [80, 55, 96, 64], [0, 60, 30, 64], [95, 63, 96, 64],
    [-20, -10, 140, 90]
])
def test_labels_never_leave_the_picture(box, sides, labels):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)  # "The text is out of bounds"
        picture = DetectionVisualizer(META, sides=sides).draw(
            grey(64, 96), make_sample([box], [0.876], [1]), 0.3, truth=True)
    assert len(labels) == 2
    for _, x0, y0, x1, y1 in labels:
        assert x1 - x0 > 20
        assert x0 >= 0 and y0 >= 0 and x1 <= picture.shape[1] / 2 and y1 <= picture.shape[0]


def test_a_dollar_in_a_name_is_a_dollar():
    meta = dict(classes=('$x^$', 'US$'), palette=META['palette'])
    DetectionVisualizer(meta).draw(grey(64, 96), make_sample([[10, 10, 40, 40]], [0.9]), 0.3)


def test_masks_lie_where_they_belong():
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 20:40, 30:60] = True
    masks[1, 50:60, 70:90] = True
    boxes = [[30, 20, 60, 40], [70, 50, 90, 60]]
    sample = make_sample(boxes, [0.9, 0.8], [0, 1], masks=masks)
    sample.gt_instances = instances(boxes, [0, 1], masks=BitmapMasks(
        masks.numpy().astype(np.uint8), 64, 96))
    sample.gt_instances.bboxes = HorizontalBoxes(sample.gt_instances.bboxes)
    both = DetectionVisualizer(META).draw(grey(64, 96), sample, 0.3, truth=True)
    for picture in np.split(both, 2, axis=1):
        changed = np.abs(picture.astype(int) - 128).max(-1) > 40
        assert changed[300:390, 420:590].mean() > 0.9  # inside, below the label
        assert changed[560:590, 720:880].mean() > 0.9
        assert changed[:190].mean() == 0 and changed[:, :290].mean() == 0
    none = make_sample([], [], masks=masks[:0])
    assert (DetectionVisualizer(META).draw(grey(64, 96), none, 0.3) == 128).all()


def test_no_annotations_and_no_detections():
    sample = make_sample([], [])
    sample.gt_instances = InstanceData()
    picture = DetectionVisualizer(META).draw(grey(64, 96), sample, 0.3, truth=True)
    assert picture.shape == (640, 1920, 3) and (picture == 128).all()


@pytest.mark.parametrize('pixels', [
    np.full((4, 5), 200, np.uint8), np.full((4, 5, 1), 200, np.uint8),
    np.full((4, 5, 2), 200, np.uint8), np.full((4, 5, 3), 200.4, np.float32),
    np.full((4, 5), 200 * 257, np.uint16), np.full((4, 5, 4), 200, np.uint8)
])
def test_pixels_of_all_kinds_become_rgb(pixels):
    picture = as_rgb(pixels)
    assert picture.shape == (4, 5, 3) and picture.dtype == np.uint8 and (picture == 200).all()


def test_bgr_becomes_rgb():
    assert (as_rgb(np.full((4, 5, 3), (1, 2, 3), np.uint8)) == (3, 2, 1)).all()


def test_style_of_a_config():
    cfg = Config(dict(visualizer=dict(type='DetLocalVisualizer', name='visualizer', line_width=1,
                                      bbox_color=(0, 0, 255))))
    assert style_of(cfg) == dict(line_width=1, bbox_color=(0, 0, 255)) and style_of(Config()) == {}
    sample, drawn = make_sample([[20, 10, 60, 50]], [0.9]), []
    for options, colour in ((style_of(cfg), BLUE), ({}, RED)):
        picture = DetectionVisualizer(META, **options).draw(grey(64, 96), sample, 0.3)
        drawn.append((np.abs(picture.astype(int) - colour).max(-1) < 60).sum())
    assert 0 < 1.5 * drawn[0] < drawn[1]
