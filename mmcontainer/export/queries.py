"""DETR and both SMCA-DETRs: what comes between the feature maps and the detections.

Shape legend: B images, L queries, h and w size of the feature map, C classes.
"""
import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.detectors import DETR
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from ..detectors import SMCADETR, MultiScaleSMCADETR, SMCAHead
from ..detectors.multi_scale_smca_layers import GROUP_STRIDES
from ..errors import UserError
from .pixels import Size
from .suppression import as_detections, take


def padding_mask(feat: Tensor, size: Size) -> Tensor:
    """Which cells of a feature map (B, channels, h, w) are padding: (B, h, w) of bool.

    A cell is what the pixel at its upper left corner is, as nearest interpolation of a mask of the
    pixels has it.
    """
    batch, _, height, width = feat.shape
    rows = torch.arange(height, device=feat.device) * size.padded_height >= size.height * height
    columns = torch.arange(width, device=feat.device) * size.padded_width >= size.width * width
    return (rows[:, None] | columns).expand(batch, -1, -1)


class BestQueries(nn.Module):
    """Detections out of logits and boxes of queries, without any suppression.

    Args:
        head (DETRHead): Which has ``test_cfg``.
        num_queries (int): Number of queries.
        score_thr (float): Detections with at most this score are left out.
    """

    def __init__(self, head: nn.Module, num_queries: int, score_thr: float):
        super().__init__()
        self.uses_sigmoid, self.score_thr = head.loss_cls.use_sigmoid, score_thr
        self.classes = head.num_classes if self.uses_sigmoid else 1
        self.number = head.test_cfg.get('max_per_img', num_queries)
        if self.number > self.classes * num_queries:
            raise UserError(f'test_cfg.max_per_img={self.number} is more than {num_queries} queries'
                            ' can give.')

    def forward(self, logits: Tensor, boxes: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Detections out of logits (B, L, C or C + 1) and boxes (B, L, 4), cx cy w h in [0, 1]."""
        if self.uses_sigmoid:
            scores, pairs = logits.sigmoid().flatten(1).topk(self.number)
            places, labels = pairs // self.classes, pairs % self.classes
        else:
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
            scores, places = scores.topk(self.number)
            labels = take(labels, places)
        limits = size.limits(boxes)
        boxes = bbox_cxcywh_to_xyxy(take(boxes, places)) * limits
        boxes = torch.minimum(boxes.clamp(min=0), limits)
        scores = torch.where(scores > self.score_thr, scores, -1.)
        return as_detections(boxes, scores, labels)


class QueryDetections(nn.Module):
    """Transformer, head and post-processing of DETR and SMCA-DETR.

    The detectors' own ``pre_transformer`` asks in Python which images are padded; here the mask is
    computed.

    Args:
        model (DETR): The detector.

    Raises:
        UserError: If it has parts that are not known here.
    """
    output_names = ('dets', 'labels')

    def __init__(self, model: nn.Module):
        super().__init__()
        known = {DETR: DETRHead, SMCADETR: SMCAHead, MultiScaleSMCADETR: SMCAHead}
        head = known.get(type(model))
        if type(model.bbox_head) is not head:
            raise UserError(f'A {type(model).__name__} with {type(model.bbox_head).__name__} '
                            'cannot be exported.')
        self.model = model
        self.is_padded = model.data_preprocessor.pad_size_divisor > 1
        self.best = BestQueries(model.bbox_head, model.num_queries,
                                model.test_cfg.get('score_thr', 0))

    def forward(self, feats: tuple[Tensor, ...], size: Size) -> tuple[Tensor, Tensor]:
        """``dets`` (B, K, 5) and ``labels`` (B, K) out of maps (B, channels, h, w), or the last."""
        model = self.model
        arrange = (self._arrange_levels if isinstance(model, MultiScaleSMCADETR)
                   else self._arrange_map)
        of_encoder, of_decoder = arrange(feats, size)
        memory = model.forward_encoder(**of_encoder)['memory']
        queries, _ = model.pre_decoder(memory)
        found = model.forward_decoder(**queries, **of_decoder)
        found['hidden_states'] = found['hidden_states'][-1:]
        logits, boxes = model.bbox_head(**found)
        return self.best(logits[-1], boxes[-1], size)

    def _arrange_map(self, feats: tuple[Tensor, ...], size: Size) -> tuple[dict, dict]:
        """What ``DETR.pre_transformer`` and ``SMCADETR.pre_transformer`` make of the last map."""
        model, feat = self.model, feats[-1]
        if self.is_padded:
            mask = padding_mask(feat, size)
            positions, mask = model.positional_encoding(mask), mask.flatten(1)
        else:
            positions, mask = model.positional_encoding(None, input=feat), None
        tokens, positions = (maps.flatten(2).transpose(1, 2) for maps in (feat, positions))
        of_decoder = dict(memory_mask=mask, memory_pos=positions)
        if isinstance(model, SMCADETR):
            of_decoder.update(grid_size=tuple(feat.shape[-2:]), cells=self._cells(feat, size))
        return dict(feat=tokens, feat_mask=mask, feat_pos=positions), of_decoder

    def _arrange_levels(self, feats: tuple[Tensor, ...], size: Size) -> tuple[dict, dict]:
        """What ``MultiScaleSMCADETR.pre_transformer`` makes of its levels."""
        of_encoder, of_decoder = self.model.arrange(
            feats, [padding_mask(feat, size) for feat in feats[:-1]])
        if not self.is_padded:
            of_decoder['memory_mask'] = None
        of_decoder['cells'] = torch.stack([
            self._cells(feat, size, share)
            for feat, share in zip((feats[1], *feats[1:]), GROUP_STRIDES)])
        return of_encoder, of_decoder

    def _cells(self, feat: Tensor, size: Size, share: float = 1.) -> Tensor:
        """See ``SMCADETR.count_cells``."""
        batch, _, height, width = feat.shape
        limits = size.limits(feat)[:2]
        if self.model.reference_stride is None:
            padded = Size(size.padded_height, size.padded_width, 0, 0).limits(feat)[:2]
            cells = limits * Size(height, width, 0, 0).limits(feat)[:2] / padded
        else:
            cells = limits / (self.model.reference_stride * share)
        return cells.expand(batch, -1)
