"""SMCA's losses where there are more objects than queries, against an explicit computation."""
import itertools

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.structures import InstanceData
from smca_models import ASSIGNER, HEAD, build_detector
from torch.nn.functional import l1_loss
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

import mmcontainer.detectors  # noqa: F401  registers SMCAHead

NUM_CLASSES, NUM_QUERIES, SIZE = 3, 2, (100, 200)


def _random_boxes(number):
    """Centres, widths and heights, relative to the image."""
    return torch.rand(number, 4).double() * 0.3 + 0.3


def _explicit_losses(logits, boxes, labels, truth):
    """Weighted losses of one image: the cheapest of all matchings, divided by all objects."""
    probability = logits.sigmoid()
    negative = -0.75 * probability**2 * (1 - probability + 1e-8).log()
    positive = -0.25 * (1 - probability)**2 * (probability + 1e-8).log()
    giou = generalized_box_iou(bbox_cxcywh_to_xyxy(boxes), bbox_cxcywh_to_xyxy(truth))
    cost = (2 * (positive - negative)[:, labels] + 5 * torch.cdist(boxes, truth, p=1) - 2 * giou)
    queries = range(len(boxes))
    best = min(itertools.permutations(range(len(truth)), len(boxes)),
               key=lambda chosen: sum(cost[query, chosen[query]] for query in queries))
    target = torch.zeros_like(logits)
    target[list(queries), labels[list(best)]] = 1
    sums = dict(
        loss_cls=2 * sigmoid_focal_loss(logits, target, 0.25, 2, reduction='sum'),
        loss_bbox=5 * l1_loss(boxes, truth[list(best)], reduction='sum'),
        loss_iou=2 * sum(1 - giou[query, best[query]] for query in queries))
    return {name: value / len(truth) for name, value in sums.items()}


@pytest.mark.parametrize('num_objects', [2, 5])
def test_losses_are_divided_by_all_objects(num_objects):
    torch.manual_seed(0)
    head = MODELS.build(dict(HEAD, num_classes=NUM_CLASSES, train_cfg=dict(assigner=ASSIGNER),
                             test_cfg=dict(max_per_img=NUM_QUERIES))).double()
    logits = torch.randn(NUM_QUERIES, NUM_CLASSES).double()
    boxes, truth = _random_boxes(NUM_QUERIES), _random_boxes(num_objects)
    labels = torch.arange(num_objects) % NUM_CLASSES
    scale = torch.tensor([SIZE[1], SIZE[0]] * 2)
    objects = InstanceData(labels=labels, bboxes=bbox_cxcywh_to_xyxy(truth) * scale)
    found = head.loss_by_feat(logits[None, None], boxes[None, None], [objects],
                              [dict(img_shape=SIZE)])
    expected = _explicit_losses(logits, boxes, labels, truth)
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-6), name


def test_images_without_objects_divide_by_one():
    head = MODELS.build(dict(HEAD, num_classes=NUM_CLASSES, train_cfg=dict(assigner=ASSIGNER),
                             test_cfg=dict(max_per_img=NUM_QUERIES)))
    logits = torch.randn(1, 1, NUM_QUERIES, NUM_CLASSES)
    objects = InstanceData(labels=torch.zeros(0, dtype=torch.long), bboxes=torch.zeros(0, 4))
    found = head.loss_by_feat(logits, torch.rand(1, 1, NUM_QUERIES, 4), [objects],
                              [dict(img_shape=SIZE)])
    expected = 2 * sigmoid_focal_loss(logits, torch.zeros_like(logits), 0.25, 2, reduction='sum')
    torch.testing.assert_close(found['loss_cls'], expected)
    assert found['loss_bbox'] == found['loss_iou'] == 0


def test_weights_that_the_detector_loads_stay(tmp_path):
    """DETR draws those of the transformer anew behind init_cfg."""
    expected = build_detector(layers=(1, 1)).state_dict()
    for value in expected.values():
        value.fill_(0.5)
    torch.save(dict(state_dict=expected), tmp_path / 'smca.pth')
    loading = dict(type='Pretrained', checkpoint=str(tmp_path / 'smca.pth'))
    for init_cfg in (loading, [dict(type='Normal', layer='Linear'), loading]):
        model = build_detector(layers=(1, 1), init_cfg=init_cfg)
        model.init_weights()
        model.init_weights()  # a second time does nothing
        torch.testing.assert_close(model.state_dict(), expected)
