"""Selection of boxes with shapes that do not depend on the data.

Shape legend: B images, N candidates. A candidate that is out has the score -1; all others are
positive.
"""
from collections.abc import Mapping

import torch
import torchvision
from torch import Tensor

from ..errors import UserError

_LIBRARY = torch.library.Library('mmcontainer', 'FRAGMENT')
_LIBRARY.define(
    'nms_mask(Tensor boxes, Tensor scores, float iou_threshold, int max_kept) -> Tensor')


def _nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int) -> Tensor:
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for row, of_image, score in zip(mask, boxes, scores):
        candidates, = (score > 0).nonzero(as_tuple=True)
        kept = torchvision.ops.nms(of_image[candidates], score[candidates], iou_threshold)
        row[candidates[kept[:max_kept]]] = True
    return mask


# An operator of its own, since torchvision's takes one image and returns as many numbers as it
# keeps boxes. This one's result has the shape of the scores, and NonMaxSuppression of ONNX takes a
# batch: no size of the graph depends on the data.
_LIBRARY.impl('nms_mask', _nms_mask, 'CompositeExplicitAutograd')
_LIBRARY.impl('nms_mask', lambda boxes, scores, *_: torch.empty_like(scores, dtype=torch.bool),
              'Meta')


def nms_mask_onnx(boxes, scores, iou_threshold: float, max_kept: int):
    """``mmcontainer::nms_mask`` in operators of ONNX, for ``custom_translation_table``."""
    from onnxscript import opset18 as op
    chosen = op.NonMaxSuppression(
        boxes, op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        op.Constant(value_ints=[max_kept]), op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[0.]))
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)  # (image, candidate)
    nothing = op.Expand(op.Constant(value_float=0.), op.Shape(scores))
    ones = op.Expand(op.Constant(value_float=1.),
                     op.Slice(op.Shape(places), op.Constant(value_ints=[0]),
                              op.Constant(value_ints=[1])))
    return op.Cast(op.ScatterND(nothing, places, ones), to=9)  # to bool


def best(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The best candidates, however few there are.

    Args:
        scores (Tensor): (B, N).
        number (int): How many are returned, which may be more than N.

    Returns:
        tuple[Tensor, Tensor]: Scores (B, number), best first, with -1 where there are no more, and
        their places in N, which is 0 there.
    """
    none = scores.new_full((1, number), -1.).expand(scores.shape[0], -1)
    padded = torch.cat((scores, none), dim=1)
    values, places = padded.topk(number)
    return values, torch.where(values > 0, places, 0)


def take(values: Tensor, places: Tensor) -> Tensor:
    """Entries (B, K, ...) of values (B, N, ...) at places (B, K)."""
    index = places.reshape(*places.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def iou_threshold(nms: Mapping, where: str) -> float:
    """The threshold of a config's ``nms``.

    Raises:
        UserError: If it is of another kind than plain NMS within classes.
    """
    extra = {key: value for key, value in nms.items()
             if key not in ('type', 'iou_threshold', 'split_thr')}
    if nms.get('type', 'nms') != 'nms' or extra:
        raise UserError(f"{where}.nms={dict(nms)} cannot be exported, only "
                        "dict(type='nms', iou_threshold=...).")
    return float(nms['iou_threshold'])


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float,
             number: int) -> Tensor:
    """Non-maximum suppression within groups.

    Args:
        boxes (Tensor): (B, N, 4) as x1, y1, x2, y2.
        scores (Tensor): (B, N).
        groups (Tensor): (B, N), integers; boxes of different groups leave each other alone.
        threshold (float): Largest IoU with a better box that a box survives.
        number (int): The best survivors of each image that stay.

    Returns:
        Tensor: Scores (B, N), -1 at what is out.
    """
    # Groups are shifted apart as mmcv does it, by the same distance: rounding is part of the IoU.
    largest = torch.where(scores[..., None] > 0, boxes, 0).flatten(1).amax(1)
    shifted = boxes + (groups.to(boxes.dtype) * (largest[:, None] + 1))[..., None]
    kept = torch.ops.mmcontainer.nms_mask(shifted, scores, threshold, number)
    return torch.where(kept, scores, -1.)


def as_detections(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What the file returns, of the best K candidates.

    Args:
        boxes (Tensor): (B, K, 4).
        scores, labels (Tensor): (B, K).

    Returns:
        tuple[Tensor, Tensor]: ``dets`` (B, K, 5): x1, y1, x2, y2 in pixels and the score, all 0 in
        places without a detection; ``labels`` (B, K), -1 there.
    """
    is_found = scores > 0
    dets = torch.cat((boxes, scores[..., None]), dim=-1)
    return torch.where(is_found[..., None], dets, 0.), torch.where(is_found, labels, -1)
