"""The cascade against detectron2's rules, written out in ``tests/detectron2_rule.py``."""
import detectron2_rule as rule
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

from mmcontainer.checkpoints import convert

SIZES = [(320, 448), (300, 400)]  # both in one batch, padded to the larger one
LEVELS = (2, 3, 4, 5)


def _config(repo_root):
    """The RoI head of the official recipe, with small maps and norms that work on a CPU."""
    model = Config.fromfile(repo_root / 'configs/cascade_mask_rcnn/cotnet_50_fpn_1x_coco.py').model
    head = model.roi_head
    small = dict(in_channels=rule.CHANNELS, conv_out_channels=rule.CHANNELS,
                 num_classes=rule.CLASSES, norm_cfg=dict(type='BN'))
    for box_head in head.bbox_head:
        box_head.update(small, fc_out_channels=rule.HIDDEN)
    head.mask_head.update(small)
    for extractor in (head.bbox_roi_extractor, head.mask_roi_extractor):
        extractor.out_channels = rule.CHANNELS
    head.update(train_cfg=model.train_cfg.rcnn, test_cfg=model.test_cfg.rcnn)
    return head


def _build(config, weights):
    """The head with converted weights: every one of them, and no other; float64."""
    init_default_scope('mmdet')
    converted = convert(weights, 'cotnet-detectron2')
    head = MODELS.build(config).double()
    head.load_state_dict({key[len('roi_head.'):]: value for key, value in converted.items()})
    return head


def _random_boxes(number, size):
    centres = torch.rand(number, 2) * torch.tensor(size).flip(0)
    sides = 8 + 280 * torch.rand(number, 2)
    corners = torch.cat((centres - sides / 2, centres + sides / 2), dim=1).clamp(min=0)
    return corners.minimum(torch.tensor(size).flip(0).repeat(2)).double()


def _maps():
    height, width = SIZES[0]
    return {level: torch.randn(2, rule.CHANNELS, height // 2**level, width // 2**level).double()
            for level in LEVELS}


def _samples(objects=None):
    samples = []
    for image, size in enumerate(SIZES):
        sample = DetDataSample(metainfo=dict(
            img_shape=size, ori_shape=size, scale_factor=(1., 1.), batch_input_shape=SIZES[0]))
        if objects:
            masks = objects[image]['filled'].view(-1, 1, 1).expand(-1, *SIZES[0]).numpy()
            sample.gt_instances = InstanceData(
                bboxes=objects[image]['boxes'], labels=objects[image]['labels'],
                masks=BitmapMasks(np.ascontiguousarray(masks, dtype=np.uint8), *SIZES[0]))
        samples.append(sample)
    return samples


def _proposals(boxes):
    return [InstanceData(bboxes=image_boxes) for image_boxes in boxes]


@pytest.fixture
def scene():
    """Weights, maps, proposals; the first proposal of an image is empty, which training drops."""
    torch.manual_seed(0)
    weights, maps = rule.make_weights(), _maps()
    proposals = [_random_boxes(60, size) for size in SIZES]
    for boxes in proposals:
        boxes[0, 2] = boxes[0, 0]
    return weights, maps, proposals


def test_a_converted_cascade_detects_what_detectron2_does(repo_root, scene):
    weights, maps, proposals = scene
    probabilities, boxes = rule.run_stages(weights, maps, proposals, SIZES)
    # mmcv's NMS knows no float64.
    head = _build(_config(repo_root), weights).eval().float()
    with torch.no_grad():
        results = head.predict(tuple(level.float() for level in maps.values()),
                               _proposals([boxes.float() for boxes in proposals]), _samples())
    for image, (found, size) in enumerate(zip(results, SIZES)):
        expected, scores, labels = rule.detect(boxes[image], probabilities[image])
        assert len(scores) > 50 and len(labels.unique()) == rule.CLASSES
        assert found.labels.tolist() == labels.tolist()
        torch.testing.assert_close(found.scores.double(), scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.bboxes.double(), expected, rtol=1e-4, atol=1e-2)
        # The one mask head sees the final boxes.
        per_image = [expected if i == image else expected[:0] for i in range(2)]
        masks = rule.run_mask_head(weights, rule.pool(maps, per_image, 14)).sigmoid()
        for i in rule.is_nonempty(expected).nonzero().flatten():
            pasted = rule.paste(masks[i, labels[i]], expected[i], size)
            assert found.masks[i].shape == pasted.shape
            assert (found.masks[i] != pasted).sum() <= 5  # pixels of exactly one half


def test_raw_predictions(repo_root, scene):
    weights, maps, proposals = scene
    probabilities, boxes = rule.run_stages(weights, maps, proposals, SIZES)
    head = _build(_config(repo_root), weights).eval()
    with torch.no_grad():
        scores, deltas, masks = head(tuple(maps.values()), _proposals(proposals), _samples())
    for image in range(2):
        torch.testing.assert_close(scores[image].softmax(dim=1), probabilities[image])
        assert deltas[image].shape == (len(proposals[image]), 4)
        assert masks[image].shape == (len(proposals[image]), rule.CLASSES, 28, 28)


@pytest.fixture
def objects():
    """Three objects in each image, of which the second has an empty mask."""
    torch.manual_seed(1)
    return [dict(boxes=_random_boxes(3, size), labels=torch.randint(rule.CLASSES, (3, )),
                 filled=torch.tensor([True, False, True])) for size in SIZES]


def _jitter(boxes, size, number):
    """Boxes around objects, some of which overlap enough."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(number, 2)
    moved = boxes.repeat(number, 1) + 0.15 * torch.randn(len(sides), 4) * sides
    return moved.clamp(min=0).minimum(moved.new_tensor(size).flip(0).repeat(2))


def _gradients(loss, inputs):
    """Gradients of a loss, 0 for inputs that it does not depend on."""
    inputs = list(inputs)
    gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(value) if gradient is None else gradient
            for value, gradient in zip(inputs, gradients)]


def test_losses_and_gradients_are_detectron2s(repo_root, scene, objects):
    weights, maps, proposals = scene
    torch.manual_seed(2)
    # Small deltas, so that later stages have positives too.
    for stage in range(3):
        weights[f'roi_heads.box_predictor.{stage}.bbox_pred.weight'] *= 0.2
    proposals = [torch.cat((boxes, _jitter(obj['boxes'], size, 10)))
                 for boxes, obj, size in zip(proposals, objects, SIZES)]
    head = _build(_config(repo_root), weights).train()
    leaves = {key: value.requires_grad_() for key, value in weights.items()
              if value.is_floating_point() and 'running' not in key}
    for value in maps.values():
        value.requires_grad_()
    expected, numbers = rule.compute_losses(
        {**weights, **leaves}, maps, proposals, objects, SIZES)
    assert all(0 < positive < 128 and total < 512 for positive, total in numbers), numbers
    assert numbers[1][1] < numbers[0][1], 'no box was dropped'

    losses = head.loss(tuple(maps.values()), _proposals(proposals), _samples(objects))
    assert {name for name in losses if 'loss' in name} == expected.keys()
    for name, value in expected.items():
        # MMDetection computes targets in float32.
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4), name
    # Box losses and the mask's one by one, because their gradients have different factors.
    for names in (expected.keys() - {'loss_mask'}, {'loss_mask'}):
        ours, theirs = (_gradients(sum(values[name] for name in names), maps.values())
                        for values in (losses, expected))
        for gradient, explicit in zip(ours, theirs):
            torch.testing.assert_close(gradient, explicit, rtol=1e-4, atol=1e-8)
        assert any(gradient.any() for gradient in theirs)
    parameters = dict(head.named_parameters())
    ours = _gradients(sum(losses[name] for name in expected), parameters.values())
    theirs = convert(dict(zip(leaves, _gradients(sum(expected.values()), leaves.values()))),
                     'cotnet-detectron2')
    assert theirs.keys() == {f'roi_head.{name}' for name in parameters}
    for name, gradient in zip(parameters, ours):
        torch.testing.assert_close(gradient, theirs[f'roi_head.{name}'], rtol=1e-4, atol=1e-8)


def test_a_batch_whose_boxes_all_vanish(repo_root, scene):
    """Later stages have no regions: their losses are 0, and every parameter has a gradient."""
    weights, maps, proposals = scene
    head = _build(_config(repo_root), weights).train()
    nothing = [dict(boxes=torch.zeros(0, 4).double(), labels=torch.zeros(0, dtype=torch.long),
                    filled=torch.zeros(0, dtype=torch.bool))] * 2
    losses = head.loss(tuple(maps.values()), _proposals([boxes[:1] for boxes in proposals]),
                       _samples(nothing))
    assert {name for name in losses if 'loss' in name} == {
        'loss_mask', *(f's{i}.loss_{kind}' for i in range(3) for kind in ('cls', 'bbox'))}
    assert losses['s1.loss_cls'] == losses['s2.loss_bbox'] == losses['loss_mask'] == 0
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize(('change', 'message'), [
    (lambda head: head.bbox_head[1].update(reg_class_agnostic=False), 'reg_class_agnostic=True'),
    (lambda head: head.update(mask_head=[head.mask_head] * 3), 'mask_head must be one dict'),
    (lambda head: head.update(mask_roi_extractor=None), 'mask_roi_extractor must be one dict'),
])
def test_what_detectron2_does_not_know_is_refused(repo_root, change, message):
    config = _config(repo_root)
    change(config)
    init_default_scope('mmdet')
    with pytest.raises(ValueError, match=message):
        MODELS.build(config)
