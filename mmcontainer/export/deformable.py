"""Deformable DETR: attention that samples the feature maps, in operators that can be recorded.

MMDetection's own keeps the sizes of the maps in a tensor and loops over its values, which a graph
cannot; here they are Python numbers.

Shape legend: B images, L queries, N positions of all maps, M heads, V maps, P points of a map.
"""
import copy

import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from mmdet.models.dense_heads import DeformableDETRHead
from mmdet.models.detectors import DeformableDETR
from mmdet.models.layers import inverse_sigmoid
from torch import Tensor, nn

from ..errors import UserError
from .pixels import Side, Size
from .queries import BestQueries, padding_mask

GridSizes = list[tuple[Side, Side]]


class DeformableAttention(nn.Module):
    """mmcv's ``MultiScaleDeformableAttention``, whose parameters it takes, for inference.

    Args:
        module (MultiScaleDeformableAttention): Whose weights are used.
    """

    def __init__(self, module: MultiScaleDeformableAttention):
        super().__init__()
        self.of_mmcv = module

    def forward(self, query: Tensor, value: Tensor = None, query_pos: Tensor = None,
                key_padding_mask: Tensor = None, reference_points: Tensor = None,
                spatial_shapes: GridSizes = (), **kwargs) -> Tensor:
        """Sample and add the identity; arguments as of mmcv's, but sizes (height, width) in a list.

        Args:
            query, query_pos (Tensor): (B, L, C).
            value (Tensor): (B, N, C); None is ``query``.
            key_padding_mask (Tensor): (B, N) of bool, or None.
            reference_points (Tensor): (B, L, V, 2) or (B, L, V, 4), relative to the padded image.
            spatial_shapes (list): Sizes of the V maps.
            kwargs: Not used.

        Returns:
            Tensor: (B, L, C).
        """
        mine, identity = self.of_mmcv, query
        value = mine.value_proj(query if value is None else value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.)
        query = query if query_pos is None else query + query_pos
        heads, levels, points = mine.num_heads, mine.num_levels, mine.num_points
        batch, length = query.shape[:2]
        offsets = mine.sampling_offsets(query).reshape(batch, length, heads, levels, points, 2)
        weights = mine.attention_weights(query).reshape(batch, length, heads, levels * points)
        weights = weights.softmax(-1).unflatten(-1, (levels, points))
        places = torch.stack([
            self._places(offsets[:, :, :, level], reference_points[:, :, None, level], *size)
            for level, size in enumerate(spatial_shapes)], dim=3)
        out = multi_scale_deformable_attn_pytorch(
            value.unflatten(-1, (heads, -1)), spatial_shapes, places, weights)
        return mine.output_proj(out) + identity

    def _places(self, offsets: Tensor, reference: Tensor, height: Side, width: Side) -> Tensor:
        """Sampled points (B, L, M, P, 2) of a map, from 0 to 1, around (B, L, 1, 2 or 4)."""
        centre = reference[..., None, :2]
        if reference.shape[-1] == 4:
            return centre + offsets / self.of_mmcv.num_points * reference[..., None, 2:] * 0.5
        cells = Size(height, width, 0, 0).limits(offsets)[:2]
        return centre + offsets / cells


def with_recorded_attention(coder: nn.Module) -> nn.Module:
    """A copy of an encoder or decoder with :class:`DeformableAttention` in place of mmcv's."""
    coder = copy.deepcopy(coder)
    for layer in coder.layers:
        for name in ('self_attn', 'cross_attn'):
            attention = getattr(layer, name, None)
            if isinstance(attention, MultiScaleDeformableAttention):
                setattr(layer, name, DeformableAttention(attention))
    return coder


class DeformableDetections(nn.Module):
    """Transformer, head and post-processing of Deformable DETR.

    Args:
        model (DeformableDETR): The detector.

    Raises:
        UserError: If it has parts that are not known here, or is of two stages.
    """
    output_names = ('dets', 'labels')

    def __init__(self, model: nn.Module):
        super().__init__()
        if type(model) is not DeformableDETR or type(model.bbox_head) is not DeformableDETRHead:
            raise UserError(f'A {type(model).__name__} with {type(model.bbox_head).__name__} '
                            'cannot be exported.')
        if model.as_two_stage:
            raise UserError('Deformable DETR with as_two_stage=True cannot be exported.')
        self.model = model
        self.encoder, self.decoder = map(with_recorded_attention, (model.encoder, model.decoder))
        self.is_padded = model.data_preprocessor.pad_size_divisor > 1
        self.best = BestQueries(model.bbox_head, model.num_queries,
                                model.test_cfg.get('score_thr', 0))

    def forward(self, feats: tuple[Tensor, ...], size: Size) -> tuple[Tensor, Tensor]:
        """``dets`` (B, K, 5) and ``labels`` (B, K) out of V maps (B, C, h, w)."""
        model = self.model
        masks = [padding_mask(feat, size) if self.is_padded else None for feat in feats]
        positions = [
            model.positional_encoding(mask, input=feat) + model.level_embed[i][:, None, None]
            for i, (mask, feat) in enumerate(zip(masks, feats))]
        tokens, positions = (torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1)
                             for maps in (feats, positions))
        sizes = [tuple(feat.shape[-2:]) for feat in feats]
        if self.is_padded:
            ratios = torch.stack([model.get_valid_ratio(mask) for mask in masks], dim=1)
            masks = torch.cat([mask.flatten(1) for mask in masks], dim=1)
        else:
            ratios, masks = tokens.new_ones(tokens.shape[0], len(feats), 2), None
        reference = self._cells(sizes, ratios)
        memory = tokens
        for layer in self.encoder.layers:
            memory = layer(query=memory, query_pos=positions, key_padding_mask=masks,
                           reference_points=reference, spatial_shapes=sizes)
        queries, _ = model.pre_decoder(memory, masks, None)
        first = queries['reference_points']
        states, references = self.decoder(
            query=queries['query'], query_pos=queries['query_pos'], value=memory,
            key_padding_mask=masks, reference_points=first, spatial_shapes=sizes,
            level_start_index=None, valid_ratios=ratios,
            reg_branches=model.bbox_head.reg_branches if model.with_box_refine else None)
        last = len(self.decoder.layers) - 1
        reference = references[last - 1] if last else first
        return self._classify(states[last], reference, last, size)

    def _cells(self, sizes: GridSizes, ratios: Tensor) -> Tensor:
        """Centres (B, N, V, 2) of all cells, relative to the padded image of every level."""
        centres = []
        for level, (height, width) in enumerate(sizes):
            y = torch.arange(height, device=ratios.device) + 0.5
            x = torch.arange(width, device=ratios.device) + 0.5
            y = y / (ratios[:, level, 1:] * height)  # B, h
            x = x / (ratios[:, level, :1] * width)
            x, y = x[:, None].expand(-1, height, -1), y[..., None].expand(-1, -1, width)
            centres.append(torch.stack((x, y), dim=-1).flatten(1, 2))
        return torch.cat(centres, dim=1)[:, :, None] * ratios[:, None]

    def _classify(self, states: Tensor, reference: Tensor, layer: int,
                  size: Size) -> tuple[Tensor, Tensor]:
        """Detections of the queries (B, L, C) around (B, L, 2 or 4) behind a layer."""
        head, reference = self.model.bbox_head, inverse_sigmoid(reference)
        logits, boxes = head.cls_branches[layer](states), head.reg_branches[layer](states)
        given = reference.shape[-1]
        boxes = torch.cat((boxes[..., :given] + reference, boxes[..., given:]), dim=-1).sigmoid()
        return self.best(logits, boxes, size)
