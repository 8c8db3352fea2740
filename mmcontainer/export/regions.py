"""Faster, Mask and Cascade R-CNN: what comes behind the neck.

Shape legend: B images, R regions of an image, K detections of an image, C classes.
"""
import torch
import torchvision
from mmcv.ops import RoIAlign
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn

from ..detectors import Detectron2CascadeRoIHead, SmallInitMaskHead
from ..errors import UserError
from .dense import Proposals, check_coder, decode
from .pixels import Size
from .suppression import as_detections, best, iou_threshold, suppress, take


class PooledRegions(nn.Module):
    """Features of regions, each from the level of the pyramid that suits its size.

    Args:
        extractor (SingleRoIExtractor): MMDetection's, whose arguments it takes.

    Raises:
        UserError: If it is of another class or pools in another way.
    """

    def __init__(self, extractor: nn.Module):
        super().__init__()
        layers = list(getattr(extractor, 'roi_layers', []))
        if type(extractor) is not SingleRoIExtractor or any(
                type(layer) is not RoIAlign or layer.pool_mode != 'avg' for layer in layers):
            raise UserError('A RoI extractor cannot be exported, only a SingleRoIExtractor with '
                            'RoIAlign.')
        self.extractor, self.layers = extractor, layers

    def forward(self, feats: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """Pool boxes (B, R, 4) of maps (B, channels, H_i, W_i) to (B * R, channels, h, w)."""
        batch, regions = boxes.shape[:2]
        images = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)
        images = images[:, None, None].expand(-1, regions, -1)
        rois = torch.cat((images, boxes), dim=-1).flatten(0, 1)
        level = self.extractor.map_roi_levels(rois, len(self.layers))[:, None]
        pooled = 0
        for i, (layer, feat) in enumerate(zip(self.layers, feats)):
            # Every level pools all regions, those of other levels as boxes without area, which cost
            # next to nothing: so nothing branches on the data.
            mine = level == i
            of_level = torchvision.ops.roi_align(
                feat, torch.cat((rois[:, :1], torch.where(mine, rois[:, 1:], 0.)), dim=1),
                layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned)
            pooled = pooled + torch.where(mine[:, :, None, None], of_level, 0.)
        return pooled


def _check_box_head(head: nn.Module) -> None:
    check_coder(head.bbox_coder, 'roi_head.bbox_head')
    if head.custom_cls_channels or head.custom_activation or not head.with_reg:
        raise UserError(f'A {type(head).__name__} with these losses cannot be exported.')


class BoxStage(nn.Module):
    """A box head and its pooling.

    Args:
        head (BBoxHead): The box head.
        extractor (SingleRoIExtractor): Its extractor.
    """

    def __init__(self, head: nn.Module, extractor: nn.Module):
        super().__init__()
        _check_box_head(head)
        self.head, self.pool = head, PooledRegions(extractor)

    def forward(self, feats: tuple[Tensor, ...], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, R, C + 1) and deltas (B, R, C or 1, 4) of boxes (B, R, 4)."""
        logits, deltas = self.head(self.pool(feats, boxes))
        batch, regions = boxes.shape[:2]
        return (logits.reshape(batch, regions, -1),
                deltas.reshape(batch, regions, deltas.shape[-1] // 4, 4))

    def decode(self, boxes: Tensor, deltas: Tensor, size: Size) -> Tensor:
        """Boxes (B, R, C or 1, 4)."""
        return decode(self.head.bbox_coder, boxes[:, :, None], deltas, size)

    def refine(self, boxes: Tensor, logits: Tensor, deltas: Tensor, size: Size) -> Tensor:
        """Boxes (B, R, 4) for the next stage of a cascade: those of the most probable class."""
        refined = self.decode(boxes, deltas, size)
        if refined.shape[2] == 1:
            return refined[:, :, 0]
        label = logits[..., :-1].argmax(-1)[..., None, None].expand(-1, -1, -1, 4)
        return refined.gather(2, label)[:, :, 0]


class RegionDetections(nn.Module):
    """RPN, box heads, mask heads and post-processing of the detectors of two stages.

    Args:
        model (TwoStageDetector): The detector.
        with_nms (bool): Return detections; else the boxes of all regions, without masks.

    Raises:
        UserError: If it has parts that are not known here.
    """

    def __init__(self, model: TwoStageDetector, with_nms: bool = True):
        super().__init__()
        roi_head, cfg = model.roi_head, model.test_cfg.rcnn
        kinds = (StandardRoIHead, CascadeRoIHead, Detectron2CascadeRoIHead)
        if type(roi_head) not in kinds or roi_head.with_shared_head:
            raise UserError(f'A {type(roi_head).__name__} cannot be exported, or not with a '
                            f'shared head; {", ".join(kind.__name__ for kind in kinds)} can.')
        self.proposals = Proposals(model.rpn_head, model.test_cfg.rpn)
        heads, extractors = _as_lists(roi_head.bbox_head, roi_head.bbox_roi_extractor)
        self.stages = nn.ModuleList(map(BoxStage, heads, extractors))
        self.averages_probabilities = isinstance(roi_head, Detectron2CascadeRoIHead)
        self.masks = Masks(roi_head) if roi_head.with_mask and with_nms else None
        self.with_nms = with_nms
        self.threshold = iou_threshold(cfg.nms, 'test_cfg.rcnn')
        self.score_thr, self.number = cfg.score_thr, cfg.max_per_img
        names = ('dets', 'labels', 'masks') if self.masks else ('dets', 'labels')
        self.output_names = names if with_nms else ('boxes', 'scores')

    def forward(self, feats: tuple[Tensor, ...], size: Size) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            feats (tuple[Tensor]): Maps of the neck, each (B, channels, H_i, W_i).
            size (Size): Of the images.

        Returns:
            tuple[Tensor]: ``dets`` (B, K, 5), ``labels`` (B, K) and of a detector with masks
            ``masks`` (B, K, 28, 28); or boxes (B, R, C or 1, 4) and scores (B, R, C).
        """
        boxes, found = self.proposals(feats, size)
        boxes, scores = self._classify(feats, boxes, size)
        scores = torch.where((found > 0)[..., None], scores, 0.)
        if not self.with_nms:
            return boxes, scores
        regions, classes = scores.shape[1:]
        scores = torch.where(scores > self.score_thr, scores, -1.).flatten(1)
        boxes = boxes.expand(-1, -1, classes, -1).flatten(1, 2)
        labels = torch.arange(regions * classes, device=scores.device) % classes
        labels = labels.expand(scores.shape[0], -1)
        scores = suppress(boxes, scores, labels, self.threshold, self.number)
        scores, places = best(scores, self.number)
        dets, labels = as_detections(take(boxes, places), scores, take(labels, places))
        if self.masks is None:
            return dets, labels
        return dets, labels, self.masks(feats, dets, labels)

    def _classify(self, feats: tuple[Tensor, ...], boxes: Tensor,
                  size: Size) -> tuple[Tensor, Tensor]:
        """Boxes (B, R, C or 1, 4) and scores (B, R, C) of regions (B, R, 4)."""
        of_stages = []
        for i, stage in enumerate(self.stages):
            logits, deltas = stage(feats, boxes)
            of_stages.append(logits.softmax(-1) if self.averages_probabilities else logits)
            if i < len(self.stages) - 1:
                boxes = stage.refine(boxes, of_stages[-1], deltas, size)
        mean = sum(of_stages) / len(of_stages)
        scores = mean if self.averages_probabilities else mean.softmax(-1)
        return stage.decode(boxes, deltas, size), scores[..., :-1]


class Masks(nn.Module):
    """Masks of detections: the mean of the mask heads' probabilities.

    Args:
        roi_head (nn.Module): With one mask head, or one for every stage.

    Raises:
        UserError: If a mask head is of another kind than ``FCNMaskHead``.
    """

    def __init__(self, roi_head: nn.Module):
        super().__init__()
        heads, extractors = _as_lists(roi_head.mask_head, roi_head.mask_roi_extractor)
        for head in heads:
            if type(head) not in (FCNMaskHead, SmallInitMaskHead):
                raise UserError(f'A {type(head).__name__} cannot be exported, only an FCNMaskHead.')
        self.heads = nn.ModuleList(heads)
        self.pools = nn.ModuleList(map(PooledRegions, extractors))

    def forward(self, feats: tuple[Tensor, ...], dets: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (B, K, 28, 28) for ``dets`` (B, K, 5) and ``labels`` (B, K)."""
        batch, number = labels.shape
        label = labels.clamp(min=0).flatten()[:, None, None, None]
        masks = 0
        for head, pool in zip(self.heads, self.pools):
            logits = head(pool(feats, dets[..., :4]))
            if not head.class_agnostic:
                logits = logits.gather(1, label.expand(-1, -1, *logits.shape[2:]))
            masks = masks + logits[:, 0].sigmoid() / len(self.heads)
        masks = masks.reshape(batch, number, *masks.shape[1:])
        return torch.where((labels >= 0)[..., None, None], masks, 0.)


def _as_lists(*modules: nn.Module) -> list[list[nn.Module]]:
    return [list(module) if isinstance(module, nn.ModuleList) else [module] for module in modules]
