"""Mask R-CNN needs another first prediction where there are few classes, and has it."""
import math

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

import mmcontainer.detectors  # noqa: F401  registers the head


def _head(name, num_classes):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    head = MODELS.build(dict(type=name, num_convs=1, in_channels=64, conv_out_channels=64,
                             num_classes=num_classes))
    head.init_weights()
    return head


def _first_loss(head, num_classes):
    """Loss of logits on features of unit variance, for random masks and classes."""
    torch.manual_seed(1)
    with torch.no_grad():
        logits = head(torch.randn(16, 64, 14, 14))
    labels = torch.randint(num_classes, (16, ))
    return head.loss_mask(logits, torch.randint(2, (16, 28, 28)).float(), labels).item()


@pytest.mark.parametrize('num_classes', [1, 4, 80])
def test_the_first_prediction_is_one_half(num_classes):
    head = _head('SmallInitMaskHead', num_classes)
    assert head.conv_logits.weight.std().item() == pytest.approx(1e-3, rel=0.3)
    assert _first_loss(head, num_classes) == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize('num_classes', [1, 4, 80])
def test_mmdetection_divides_by_the_number_of_classes(num_classes):
    """The reason for the head; when this fails, MMDetection has mended it and ours can go."""
    head = _head('FCNMaskHead', num_classes)
    expected = math.sqrt(2 / num_classes)
    assert head.conv_logits.weight.std().item() == pytest.approx(expected, rel=0.3)


def test_weights_of_mmdetections_head_fit():
    ours, theirs = _head('SmallInitMaskHead', 4), _head('FCNMaskHead', 4)
    ours.load_state_dict(theirs.state_dict())
    assert _first_loss(ours, 4) == _first_loss(theirs, 4) > math.log(2)
