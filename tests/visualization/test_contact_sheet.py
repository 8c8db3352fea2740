"""Contact sheets of detections beside ground truth."""
import cv2
import matplotlib.image
import numpy as np
import pytest
import torch

pytest.importorskip('mmcv.ops')

from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from mmcontainer.visualization import contact_sheet  # noqa: E402

META = dict(classes=('circle', 'triangle'), palette=[(255, 0, 0), (0, 0, 255)])
RED, BLUE = np.array([1, 0, 0]), np.array([0, 0, 1])


def make_sample(path, boxes, scores, labels=None, size=(64, 96)):
    cv2.imwrite(str(path), np.full((*size, 3), 128, np.uint8))
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor(labels or [0] * len(boxes), dtype=torch.long)
    return DetDataSample(
        metainfo=dict(img_path=str(path)),
        gt_instances=InstanceData(bboxes=boxes[:1], labels=labels[:1]),
        pred_instances=InstanceData(bboxes=boxes, labels=labels, scores=torch.tensor(scores)))


def count(picture, colour):
    return int((np.abs(picture[..., :3] - colour).max(-1) < 0.1).sum())


def test_both_sides_are_drawn_and_the_threshold_holds(tmp_path):
    sample = make_sample(
        tmp_path / 'a.png', [[10, 10, 40, 40], [50, 20, 80, 60]], [0.9, 0.2], [0, 1])
    sheets = {}
    for threshold in (0.1, 0.5):
        out = tmp_path / f'{threshold}.png'
        contact_sheet.draw_contact_sheet([sample], META, out, score_thr=threshold)
        sheets[threshold] = matplotlib.image.imread(out)
    half = sheets[0.1].shape[1] // 2
    for sheet in sheets.values():
        assert count(sheet[:, :half], RED) > 100 and count(sheet[:, :half], BLUE) == 0
        assert count(sheet[:, half:], RED) > 100
    assert count(sheets[0.1][:, half:], BLUE) > 100
    assert count(sheets[0.5][:, half:], BLUE) == 0


@pytest.mark.parametrize('number', [1, 3, 4])
def test_any_number_of_pictures_and_none_detected(tmp_path, number):
    samples = [make_sample(tmp_path / f'{i}.png', [], [], size=(40 + 30 * i, 80))
               for i in range(number)]
    contact_sheet.draw_contact_sheet(samples, META, tmp_path / 'sheet.png', title='none')
    picture = matplotlib.image.imread(tmp_path / 'sheet.png')
    grey = np.abs(picture[..., :3] - 128 / 255).max(-1) < 0.02
    assert grey.mean() > 0.2
