"""Boxes of heads with anchors: RetinaNet's detections, and the proposals of an RPN.

Shape legend: B images, C classes, L levels, k candidates of a level, N of all levels.
"""
import math
from typing import Optional

import torch
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder
from torch import Tensor, nn

from ..errors import UserError
from .pixels import Size
from .suppression import as_detections, best, iou_threshold, suppress, take

# Of MMDetection's ``decode``: a side grows or shrinks by this factor at most.
_LOG_RATIO = abs(math.log(16 / 1000))


def check_coder(coder: nn.Module, where: str) -> None:
    """Refuse a box coder that :func:`decode` does not know.

    Raises:
        UserError: See above.
    """
    if type(coder) is not DeltaXYWHBBoxCoder or coder.add_ctr_clamp or not coder.clip_border:
        raise UserError(f'{where}.bbox_coder cannot be exported, only a DeltaXYWHBBoxCoder that '
                        'clips boxes to the image.')


def decode(coder: DeltaXYWHBBoxCoder, boxes: Tensor, deltas: Tensor, size: Size) -> Tensor:
    """Shift and scale boxes (..., 4) by deltas (..., 4), and clip them to the image.

    MMDetection's own ``decode`` writes in place and takes one image at a time.
    """
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    centres = (boxes[..., :2] + boxes[..., 2:]) * 0.5
    sides = boxes[..., 2:] - boxes[..., :2]
    centres = centres + sides * deltas[..., :2]
    sides = sides * deltas[..., 2:].clamp(-_LOG_RATIO, _LOG_RATIO).exp()
    corners = torch.cat((centres - sides * 0.5, centres + sides * 0.5), dim=-1)
    return torch.minimum(corners.clamp(min=0), size.limits(corners))


def without_small(boxes: Tensor, scores: Tensor, side: float) -> Tensor:
    """Scores (B, N) of boxes (B, N, 4) with -1 where a box has a side of at most so many pixels."""
    if side < 0:
        return scores
    return torch.where((boxes[..., 2:] - boxes[..., :2] > side).all(-1), scores, -1.)


class AnchorLevels(nn.Module):
    """The best anchors of every level of the pyramid, decoded.

    Args:
        head (RetinaHead | RPNHead): The head.
        cfg (ConfigDict): Its ``test_cfg``.
        where (str): Name of the head in the config, for messages.

    Raises:
        UserError: If the head has parts that are not known here.
    """

    def __init__(self, head: nn.Module, cfg, where: str):
        super().__init__()
        check_coder(head.bbox_coder, where)
        if type(head.prior_generator) is not AnchorGenerator:
            raise UserError(f'{where}.anchor_generator cannot be exported, only an '
                            'AnchorGenerator.')
        if cfg.get('nms_pre', -1) < 1:
            raise UserError(f'{where} needs test_cfg.nms_pre, a number of candidates, to be '
                            'exported.')
        self.head, self.number = head, cfg.nms_pre

    def forward(self, feats: tuple[Tensor, ...], size: Size) -> tuple[Tensor, Tensor]:
        """Classify and locate.

        Args:
            feats (tuple[Tensor]): Maps of the neck, each (B, channels, H_i, W_i).
            size (Size): Of the images.

        Returns:
            tuple[Tensor, Tensor]: Boxes (B, L * k, 4) and scores (B, L * k, C), level by level,
            those with the best scores of a level first. Where a level has fewer anchors than k the
            scores are -1.
        """
        logits, deltas = self.head(feats)
        anchors = self.head.prior_generator.grid_priors(
            [level.shape[-2:] for level in logits], device=logits[0].device)
        # Decoded together, as the graph then has a fifth of the operators.
        anchors, deltas, scores = (torch.cat(parts, dim=1) for parts in zip(*(
            self._select(*level) for level in zip(logits, deltas, anchors))))
        return decode(self.head.bbox_coder, anchors, deltas, size), scores

    def _select(self, logits: Tensor, deltas: Tensor,
                anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch = logits.shape[0]  # len() would fix it
        logits = logits.permute(0, 2, 3, 1).reshape(batch, -1, self.head.cls_out_channels)
        deltas = deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4)
        scores = logits.sigmoid() if self.head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]
        # The best pairs of anchor and class are among the anchors whose best class is the best.
        values, places = best(scores.amax(-1), self.number)
        return (anchors[places], take(deltas, places),
                torch.where(values[..., None] > 0, take(scores, places), -1.))


class DenseDetections(nn.Module):
    """RetinaNet's post-processing.

    Args:
        model (SingleStageDetector): The detector.
        with_nms (bool): Return detections; else what they are selected from.

    Raises:
        UserError: If it has parts that are not known here.
    """

    def __init__(self, model: nn.Module, with_nms: bool = True):
        super().__init__()
        head, cfg = model.bbox_head, model.test_cfg
        if type(head) is not RetinaHead:
            raise UserError(f'A {type(head).__name__} cannot be exported; of the detectors of one '
                            'stage, RetinaNet can (RetinaHead).')
        self.levels = AnchorLevels(head, cfg, 'bbox_head')
        self.with_nms = with_nms
        self.threshold = iou_threshold(cfg.nms, 'test_cfg')
        self.score_thr, self.number = cfg.get('score_thr', 0), cfg.max_per_img
        self.min_side = cfg.get('min_bbox_size', -1)
        self.output_names = ('dets', 'labels') if with_nms else ('boxes', 'scores')

    def forward(self, feats: tuple[Tensor, ...], size: Size) -> tuple[Tensor, Tensor]:
        """``dets`` (B, K, 5) and ``labels`` (B, K), or boxes (B, N, 4) and scores (B, N, C)."""
        boxes, scores = self.levels(feats, size)
        if not self.with_nms:
            return boxes, scores.clamp(min=0)
        boxes, scores, labels = self._best_pairs(boxes, scores)
        scores = without_small(boxes, scores, self.min_side)
        scores = suppress(boxes, scores, labels, self.threshold, self.number)
        scores, places = best(scores, self.number)
        return as_detections(take(boxes, places), scores, take(labels, places))

    def _best_pairs(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of the best k pairs of box and class of every level."""
        batch, number, classes = boxes.shape[0], self.levels.number, scores.shape[-1]
        scores = torch.where(scores > self.score_thr, scores, -1.)
        values, pairs = best(scores.reshape(-1, number * classes), number)
        boxes = take(boxes.reshape(-1, number, 4), pairs // classes)
        return (boxes.reshape(batch, -1, 4), values.reshape(batch, -1),
                (pairs % classes).reshape(batch, -1))


class Proposals(nn.Module):
    """The regions that an RPN proposes.

    Args:
        head (RPNHead): The RPN.
        cfg (ConfigDict): Its ``test_cfg``.

    Raises:
        UserError: If it has parts that are not known here.
    """

    def __init__(self, head: nn.Module, cfg: Optional[dict]):
        super().__init__()
        if type(head) is not RPNHead:
            raise UserError(f'rpn_head is a {type(head).__name__}; only an RPNHead can be '
                            'exported.')
        self.levels = AnchorLevels(head, cfg, 'rpn_head')
        self.threshold = iou_threshold(cfg.nms, 'test_cfg.rpn')
        self.number, self.min_side = cfg.max_per_img, cfg.get('min_bbox_size', -1)

    def forward(self, feats: tuple[Tensor, ...], size: Size) -> tuple[Tensor, Tensor]:
        """Boxes (B, R, 4) and, where there is one, their positive scores (B, R)."""
        boxes, scores = self.levels(feats, size)
        scores = without_small(boxes, scores.squeeze(-1), self.min_side)
        # Of how many there are together, those of a level follow each other.
        level = torch.arange(scores.shape[1], device=scores.device) // self.levels.number
        level = level.expand_as(scores)
        scores = suppress(boxes, scores, level, self.threshold, self.number)
        scores, places = best(scores, self.number)
        return torch.where(scores[..., None] > 0, take(boxes, places), 0.), scores
