"""Encoder and decoder of SMCA-DETR (arXiv 2101.07448), after MMDetection's DETR.

Shape legend: B images, L queries, N = H * W positions of the feature map, row by row, C channels,
M heads.
"""
from collections.abc import Sequence
from typing import Optional

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmdet.models.layers import (
    MLP,
    DetrTransformerDecoder,
    DetrTransformerDecoderLayer,
    DetrTransformerEncoder,
)
from mmdet.models.layers.transformer.detr_layers import DetrTransformerEncoderLayer
from mmengine.model import ModuleList
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import gaussian_attention
from ..ops.precision import without_autocast

# Scales that a query predicts for each head, and how many of them the operator takes.
DYNAMIC_SCALES = {'type1': 0, 'type2': 1, 'type3': 2, 'type4': 3}


class SMCAEncoder(DetrTransformerEncoder):
    """DETR's encoder, whose first ``num_cp`` layers are recomputed in the backward pass.

    Unlike its base class it needs no fairscale for that.
    """
    layer_class = DetrTransformerEncoderLayer

    def _init_layers(self) -> None:
        self.layers = ModuleList(
            self.layer_class(**self.layer_cfg) for _ in range(self.num_layers))
        self.embed_dims = self.layers[0].embed_dims

    def forward(self, query: Tensor, query_pos: Tensor, key_padding_mask: Optional[Tensor],
                **kwargs) -> Tensor:
        """Map features (B, N, C) with positions (B, N, C) and padding (B, N) to (B, N, C)."""
        for i, layer in enumerate(self.layers):
            args = (query, query_pos, key_padding_mask)
            if self.training and i < self.num_cp:
                query = checkpoint(layer, *args, use_reentrant=False, **kwargs)
            else:
                query = layer(*args, **kwargs)
        return query


class SMCACrossAttention(MultiheadAttention):
    """Multi-head attention whose logits get a log-Gaussian around a point of each query and head.

    Args:
        smooth (float): Divisor of the Gaussian's exponent.
        form (str): Form of :func:`mmcontainer.ops.gaussian_attention`.
        kwargs: Arguments of mmcv's ``MultiheadAttention``.
    """

    def __init__(self, smooth: float = 8., form: str = 'auto', **kwargs):
        super().__init__(**kwargs)
        self.smooth, self.form = smooth, form

    def forward(self, query: Tensor, key: Tensor, value: Tensor, query_pos: Tensor,
                key_pos: Tensor, key_padding_mask: Optional[Tensor], *place) -> Tensor:
        """Attend and add the identity.

        Args:
            query, query_pos (Tensor): (B, L, C).
            key, value, key_pos (Tensor): (B, N, C).
            key_padding_mask (Tensor, optional): (B, N) of bool, True at padding.
            place: Where heads look, see :meth:`attend`.

        Returns:
            Tensor: (B, L, C).
        """
        heads = self.project(query + query_pos, key + key_pos, value)
        out = self.attend(heads, key_padding_mask, *place)
        out = self.attn.out_proj(out.transpose(1, 2).flatten(2))
        return query + self.dropout_layer(self.proj_drop(out))

    def attend(self, heads: list[Tensor], key_padding_mask: Optional[Tensor], point: Tensor,
               scale: Optional[Tensor], grid_size: Sequence[int]) -> Tensor:
        """Attend with query, key and value of all heads; returns (B, M, L, C / M).

        ``point``, ``scale`` and ``grid_size`` as in :func:`mmcontainer.ops.gaussian_attention`.
        """
        return gaussian_attention(*heads, point, scale, grid_size, self.smooth, key_padding_mask,
                                  self.attn.dropout if self.training else 0., self.form)

    def groups(self, key: Tensor, key_padding_mask: Optional[Tensor], point: Tensor,
               scale: Optional[Tensor], grid_size: Sequence[int]) -> list[tuple]:
        """What :func:`mmcontainer.ops.gaussian_affinity` takes after the query, to look into it.

        Returns:
            list[tuple[str, Tensor, tuple]]: Name, weights (B, L) and arguments of every group of
            keys that has a softmax of its own: here of all keys.
        """
        return [('', point.new_ones(len(point), point.shape[2]),
                 (key, point, scale, grid_size, self.smooth, key_padding_mask))]

    def project(self, *tokens: Tensor) -> list[Tensor]:
        """Query, key and value (B, tokens, C) to the heads' (B, M, tokens, C / M)."""
        weights, biases = (p.chunk(3) for p in (self.attn.in_proj_weight, self.attn.in_proj_bias))
        projected = map(nn.functional.linear, tokens, weights, biases)
        return [t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in projected]


class SMCADecoderLayer(DetrTransformerDecoderLayer):
    """DETR's decoder layer with spatially modulated co-attention.

    Args:
        dynamic_scale (str): What widens the Gaussian of a head: 'type1' nothing, 'type2' one scale,
            'type3' one each for x and y, 'type4' a third for the product of both squared distances.
        smooth (float): Divisor of the Gaussian's exponent.
        attention_form (str): Form of :func:`mmcontainer.ops.gaussian_attention`.
        kwargs: Arguments of MMDetection's ``DetrTransformerDecoderLayer``.

    Raises:
        ValueError: Unknown ``dynamic_scale``.

    Source: arXiv 2101.07448, section 3.2, and its code, where squared scales multiply distances: a
    large scale is a narrow Gaussian.
    """
    attention_class = SMCACrossAttention
    # Groups of keys, in each of which every head has a point and a scale.
    num_groups = 1

    def __init__(self, dynamic_scale: str = 'type3', smooth: float = 8.,
                 attention_form: str = 'auto', **kwargs):
        super().__init__(**kwargs)
        if dynamic_scale not in DYNAMIC_SCALES:
            raise ValueError(f'dynamic_scale must be one of {", ".join(DYNAMIC_SCALES)}, got '
                             f'{dynamic_scale!r}.')
        self.cross_attn = self.attention_class(smooth, attention_form, **self.cross_attn_cfg)
        self.num_scales = DYNAMIC_SCALES[dynamic_scale]
        self.point_norm = build_norm_layer(self.norm_cfg, self.embed_dims)[1]
        heads = self.num_groups * self.cross_attn.num_heads
        self.offset = nn.Linear(self.embed_dims, 2 * heads)
        if self.num_scales:
            self.scale = nn.Linear(self.embed_dims, self.num_scales * heads)

    def normalize_query(self, query: Tensor, query_pos: Tensor) -> Tensor:
        """Features that point and scale are predicted from, (B, L, C) in the parameters' type.

        Sixteen bits would round a point to quarters of a cell; hence no autocast from here on.
        """
        with without_autocast(query.device.type):
            dtype = self.point_norm.weight.dtype
            return self.point_norm(query.to(dtype) + query_pos.to(dtype))

    def split_heads(self, predicted: Tensor) -> Tensor:
        """What a linear layer predicts for all heads (B, L, M * n), as (B, M, L, n)."""
        return predicted.unflatten(-1, (self.cross_attn.num_heads, -1)).transpose(1, 2)

    def locate(self, normed: Tensor, reference: Tensor) -> tuple[Tensor, Optional[Tensor]]:
        """Predict the point that each head looks at, and its scale.

        Args:
            normed (Tensor): (B, L, C), see :meth:`normalize_query`.
            reference (Tensor): Points (B, L, 2) of the queries, (x, y) in cells.

        Returns:
            tuple[Tensor, Tensor | None]: Points (B, M, L, 2) in cells and scales (B, M, L, 2 or 3).
        """
        with without_autocast(normed.device.type):
            point = reference.unsqueeze(-3) + self.split_heads(self.offset(normed))
            scale = self.split_heads(self.scale(normed)) if self.num_scales else None
        if self.num_scales == 1:
            scale = scale.expand(*scale.shape[:-1], 2)
        return point, scale

    def forward(self, query: Tensor, key: Tensor, value: Tensor, query_pos: Tensor,
                key_pos: Tensor, key_padding_mask: Optional[Tensor], reference: Tensor,
                grid_size: Sequence[int]) -> Tensor:
        """Update queries (B, L, C).

        Args:
            query, query_pos (Tensor): (B, L, C).
            key, value, key_pos (Tensor): (B, N, C).
            key_padding_mask (Tensor, optional): (B, N) of bool, True at padding.
            reference (Tensor): Points (B, L, 2) of the queries, (x, y) in cells.
            grid_size (Sequence[int]): (H, W).

        Returns:
            Tensor: (B, L, C).
        """
        place = self.locate(self.normalize_query(query, query_pos), reference)
        query = self.norms[0](self.self_attn(
            query=query, key=query, value=query, query_pos=query_pos, key_pos=query_pos))
        query = self.norms[1](self.cross_attn(
            query, key, value, query_pos, key_pos, key_padding_mask, *place, grid_size))
        return self.norms[2](self.ffn(query))


class SMCADecoder(DetrTransformerDecoder):
    """DETR's decoder; the first layer's input tells every query its reference point.

    Args:
        num_layers (int): Number of layers.
        layer_cfg (dict): Arguments of :class:`SMCADecoderLayer`.
        kwargs: Further arguments of MMDetection's ``DetrTransformerDecoder``.
    """
    layer_class = SMCADecoderLayer

    def _init_layers(self) -> None:
        self.layers = ModuleList(
            self.layer_class(**self.layer_cfg) for _ in range(self.num_layers))
        self.embed_dims = self.layers[0].embed_dims
        self.post_norm = build_norm_layer(self.post_norm_cfg, self.embed_dims)[1]
        self.ref_point_head = MLP(self.embed_dims, self.embed_dims, 2, 3)

    def predict_references(self, query: Tensor, query_pos: Tensor) -> Tensor:
        """Reference points (B, L, 2) as (x, y) before the sigmoid."""
        normed = self.layers[0].normalize_query(query, query_pos)
        with without_autocast(query.device.type):
            return self.ref_point_head(normed)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, query_pos: Tensor,
                key_pos: Tensor, key_padding_mask: Optional[Tensor], cells: Tensor,
                grid_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Decode queries.

        Args:
            query, query_pos (Tensor): (B, L, C).
            key, value, key_pos (Tensor): (B, N, C).
            key_padding_mask (Tensor, optional): (B, N) of bool, True at padding.
            cells (Tensor): (B, 2), how many cells wide and high the images are, without padding.
            grid_size (Sequence[int]): (H, W) of the feature map.

        Returns:
            tuple[Tensor, Tensor]: Hidden states (layers, B, L, C) and reference points (B, L, 2)
            before the sigmoid.
        """
        logits = self.predict_references(query, query_pos)
        reference = logits.sigmoid() * cells[..., None, :].to(logits.dtype)
        states = []
        for layer in self.layers:
            query = layer(query, key, value, query_pos, key_pos, key_padding_mask, reference,
                          grid_size)
            states.append(self.post_norm(query))
        return torch.stack(states if self.return_intermediate else states[-1:]), logits
