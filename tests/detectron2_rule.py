"""detectron2's Cascade Mask R-CNN on given maps and proposals, written out for tests.

From the files of github.com/facebookresearch/detectron2, v0.3, that the functions name; nothing of
MMDetection or of this project is used. Weights have detectron2's names.

Shapes: maps {level l: (B, C, H / 2^l, W / 2^l)}, boxes a list of (N_b, 4), one per image.
"""
import math

import torch
from torch.nn import functional as F
from torchvision.ops import box_iou, nms, roi_align

CHANNELS, HIDDEN, CLASSES = 16, 32, 5
# IOUS and BBOX_REG_WEIGHTS of config/defaults.py.
STAGES = ((0.5, (10., 10., 5., 5.)), (0.6, (20., 20., 10., 10.)), (0.7, (30., 30., 15., 15.)))


def make_weights():
    """Random weights of three box heads and one mask head: numbers of float32, in float64."""
    def layer(name, *shape, gain=1.):
        fan_in = shape[0] * 4 if 'deconv' in name else math.prod(shape[1:])
        out_channels = shape[1] if 'deconv' in name else shape[0]
        return {f'{name}.weight': torch.randn(shape) * gain * fan_in**-0.5,
                f'{name}.bias': 0.1 * torch.randn(out_channels)}

    def normed_conv(name):
        weights = layer(name, CHANNELS, CHANNELS, 3, 3, gain=1.5)
        del weights[f'{name}.bias']
        for entry in ('weight', 'running_var'):
            weights[f'{name}.norm.{entry}'] = 0.5 + torch.rand(CHANNELS)
        for entry in ('bias', 'running_mean'):
            weights[f'{name}.norm.{entry}'] = 0.1 * torch.randn(CHANNELS)
        return {**weights, f'{name}.norm.num_batches_tracked': torch.tensor(7)}

    weights = {}
    for stage in range(3):
        head, predictor = f'roi_heads.box_head.{stage}.', f'roi_heads.box_predictor.{stage}.'
        for i in range(4):
            weights.update(normed_conv(f'{head}conv{i + 1}'))
        weights.update({**layer(f'{head}fc1', HIDDEN, CHANNELS * 49, gain=1.5),
                        **layer(f'{predictor}cls_score', CLASSES + 1, HIDDEN, gain=2.),
                        **layer(f'{predictor}bbox_pred', 4, HIDDEN)})
    for i in range(4):
        weights.update(normed_conv(f'roi_heads.mask_head.mask_fcn{i + 1}'))
    weights.update({**layer('roi_heads.mask_head.deconv', CHANNELS, CHANNELS, 2, 2, gain=1.5),
                    **layer('roi_heads.mask_head.predictor', CLASSES, CHANNELS, 1, 1, gain=3.)})
    return {key: value.double() if value.is_floating_point() else value
            for key, value in weights.items()}


def pool(maps, boxes, size):
    """Pool every box from its level: modeling/poolers.py, ROIAlignV2, sampling ratio 0."""
    pooled = []
    for image, image_boxes in enumerate(boxes):
        for box in image_boxes:
            scale = ((box[2] - box[0]) * (box[3] - box[1])).sqrt()
            level = int((4 + torch.log2(scale / 224 + 1e-8)).floor().clamp(2, 5))
            roi = torch.cat((box.new_tensor([image]), box))[None]
            pooled.append(roi_align(maps[level], roi, size, 1 / 2**level, 0, aligned=True))
    return torch.cat(pooled)


def _normed_conv(weights, name, x, training):
    norm = [weights[f'{name}.norm.{entry}']
            for entry in ('running_mean', 'running_var', 'weight', 'bias')]
    norm[:2] = (value.clone() for value in norm[:2])
    x = F.conv2d(x, weights[f'{name}.weight'], padding=1)
    return F.batch_norm(x, *norm, training=training).relu()


def _layer(weights, name):
    return weights[f'{name}.weight'], weights[f'{name}.bias']


def run_box_head(weights, stage, x, training=False):
    """Logits (N, classes + 1) and deltas (N, 4): roi_heads/box_head.py and fast_rcnn.py."""
    for i in range(1, 5):
        x = _normed_conv(weights, f'roi_heads.box_head.{stage}.conv{i}', x, training)
    x = F.linear(x.flatten(1), *_layer(weights, f'roi_heads.box_head.{stage}.fc1')).relu()
    return tuple(F.linear(x, *_layer(weights, f'roi_heads.box_predictor.{stage}.{name}'))
                 for name in ('cls_score', 'bbox_pred'))


def run_mask_head(weights, x, training=False):
    """Logits (N, classes, 28, 28): roi_heads/mask_head.py."""
    for i in range(1, 5):
        x = _normed_conv(weights, f'roi_heads.mask_head.mask_fcn{i}', x, training)
    x = F.conv_transpose2d(x, *_layer(weights, 'roi_heads.mask_head.deconv'), stride=2).relu()
    return F.conv2d(x, *_layer(weights, 'roi_heads.mask_head.predictor'))


def _centres_and_sizes(boxes):
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]


def decode(boxes, deltas, factors, size):
    """Move and scale boxes, and clip them to an image of (height, width): box_regression.py."""
    deltas = deltas / deltas.new_tensor(factors)
    centres, sizes = _centres_and_sizes(boxes)
    centres = centres + deltas[:, :2] * sizes
    sizes = deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp() * sizes
    corners = torch.cat((centres - sizes / 2, centres + sizes / 2), dim=1)
    height, width = size
    return corners.clamp(min=0).minimum(corners.new_tensor([width, height, width, height]))


def encode(boxes, targets, factors):
    """Deltas from boxes to targets: box_regression.py."""
    (centres, sizes), (to, to_sizes) = _centres_and_sizes(boxes), _centres_and_sizes(targets)
    deltas = torch.cat(((to - centres) / sizes, (to_sizes / sizes).log()), dim=1)
    return deltas * deltas.new_tensor(factors)


def is_nonempty(boxes):
    """Which boxes have an area: structures/boxes.py."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def run_stages(weights, maps, boxes, sizes):
    """Mean probabilities and final boxes of each image: cascade_rcnn.py, ``_forward_box``."""
    numbers = [len(image_boxes) for image_boxes in boxes]
    mean = 0
    for stage, (_, factors) in enumerate(STAGES):
        logits, deltas = run_box_head(weights, stage, pool(maps, boxes, 7))
        mean = mean + logits.softmax(dim=1) / 3
        boxes = [decode(*pair, factors, size)
                 for *pair, size in zip(boxes, deltas.split(numbers), sizes)]
    return mean.split(numbers), boxes


def detect(boxes, probabilities):
    """Boxes (n, 4), scores and labels (n), best first: fast_rcnn.py, detections of one image."""
    found = []
    for label in range(CLASSES):
        scores = probabilities[:, label]
        above = (scores > 0.05).nonzero().flatten()
        kept = above[nms(boxes[above], scores[above], 0.5)]
        found += [(scores[i].item(), label, boxes[i]) for i in kept]
    found = sorted(found, key=lambda item: -item[0])[:100]
    scores, labels, boxes = zip(*found)
    return torch.stack(boxes), torch.tensor(scores, dtype=torch.float64), torch.tensor(labels)


def paste(mask, box, size):
    """Where a mask (28, 28) of probabilities on a box is at least 0.5: layers/mask_ops.py."""
    grid = [(torch.arange(length, dtype=box.dtype) + 0.5 - start) / (end - start) * 2 - 1
            for length, start, end in zip(size, box[:2].flip(0), box[2:].flip(0))]
    y, x = torch.meshgrid(*grid, indexing='ij')
    return F.grid_sample(mask[None, None], torch.stack((x, y), dim=2)[None],
                         align_corners=False)[0, 0] >= 0.5


def compute_losses(weights, maps, proposals, objects, sizes):
    """Losses of all stages, and of the mask head: cascade_rcnn.py, fast_rcnn.py, mask_head.py.

    All proposals are used: there must be fewer than 512 and 128 positive ones, of which the random
    sample of the first stage consists.

    Args:
        objects (list[dict]): ``boxes`` (M, 4), ``labels`` (M) and ``filled`` (M): whether the
            object's mask covers all of the image, or nothing of it.

    Returns:
        tuple[dict, list]: {name: loss}, and (positive, all) boxes of the stages.
    """
    losses, numbers = {}, []
    # roi_heads.py: ground truth joins the proposals.
    boxes = [torch.cat((image_boxes, obj['boxes'])) for image_boxes, obj in zip(proposals, objects)]
    for stage, (threshold, factors) in enumerate(STAGES):
        labels, targets, filled = [], [], []
        for image_boxes, obj in zip(boxes, objects):
            overlap, index = box_iou(obj['boxes'], image_boxes).max(dim=0)
            labels.append(obj['labels'][index].where(overlap >= threshold, torch.tensor(CLASSES)))
            targets.append(obj['boxes'][index])
            filled.append(obj['filled'][index])
        label, positive = torch.cat(labels), torch.cat(labels) < CLASSES
        x = pool(maps, boxes, 7)
        x = x.detach() + (x - x.detach()) / 3
        logits, deltas = run_box_head(weights, stage, x, training=True)
        losses[f's{stage}.loss_cls'] = F.cross_entropy(logits, label)
        target = encode(torch.cat(boxes)[positive], torch.cat(targets)[positive], factors)
        losses[f's{stage}.loss_bbox'] = (deltas[positive] - target).abs().sum() / len(label)
        if stage == 0:
            x = pool(maps, [image_boxes[image_labels < CLASSES]
                            for image_boxes, image_labels in zip(boxes, labels)], 14)
            masks = run_mask_head(weights, x, training=True)
            masks = masks[torch.arange(len(masks)), label[positive]]
            filling = torch.cat(filled)[positive].to(masks.dtype)[:, None, None].expand_as(masks)
            losses['loss_mask'] = F.binary_cross_entropy_with_logits(masks, filling)
        numbers.append((int(positive.sum()), len(label)))
        boxes = [decode(*pair, factors, size).detach() for *pair, size in zip(
            boxes, deltas.split([len(image_boxes) for image_boxes in boxes]), sizes)]
        boxes = [image_boxes[is_nonempty(image_boxes)] for image_boxes in boxes]
    return losses, numbers
