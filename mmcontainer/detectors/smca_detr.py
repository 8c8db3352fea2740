"""SMCA-DETR: DETR with spatially modulated co-attention (arXiv 2101.07448), single scale."""
from typing import Optional

import torch
from mmdet.models.detectors import DETR
from mmdet.models.layers import SinePositionalEncoding
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList
from mmengine.model import initialize
from torch import Tensor, nn

from ..type_names import loading_entries
from .smca_layers import SMCADecoder, SMCAEncoder


@MODELS.register_module()
class SMCADETR(DETR):
    r"""DETR whose queries look around a point of their own.

    The decoder adds :math:`-(s_x^2 (p_x - x)^2 + s_y^2 (p_y - y)^2) / \text{smooth}` to the logits
    of cross-attention, for the cell in column x and row y, with a point p and scales s that every
    head predicts from the query. Equal to the official code, see
    :mod:`mmcontainer.detectors.smca_layers` for the layers; here boxes are clipped to the image
    after inference, as MMDetection does.

    Args:
        args: Arguments of MMDetection's ``DETR``.
        reference_stride (int, optional): Pixels per cell, to place the points on the feature map.
            The official code always divides by 32, the default. None takes the width and height of
            a cell from the sizes of batch and feature map, which is right for any backbone.
        kwargs: Further arguments of MMDetection's ``DETR``; ``encoder`` and ``decoder`` hold those
            of :class:`SMCAEncoder` and :class:`SMCADecoder`, ``bbox_head`` a :class:`SMCAHead`.

    Raises:
        ValueError: If ``test_cfg.max_per_img`` is more than queries and classes can give.
    """
    encoder_class, decoder_class = SMCAEncoder, SMCADecoder

    def __init__(self, *args, reference_stride: Optional[int] = 32, **kwargs):
        super().__init__(*args, **kwargs)
        self.reference_stride = reference_stride
        most = self.num_queries * self.bbox_head.num_classes
        wanted = (self.test_cfg or {}).get('max_per_img', self.num_queries)
        if wanted > most:
            raise ValueError(
                f'test_cfg.max_per_img={wanted} is more than {self.num_queries} queries and '
                f'{self.bbox_head.num_classes} classes can give: set it to at most {most}.')

    def _init_layers(self) -> None:
        self.positional_encoding = SinePositionalEncoding(**self.positional_encoding)
        self.encoder = self.encoder_class(**self.encoder)
        self.decoder = self.decoder_class(**self.decoder)
        self.embed_dims = self.encoder.embed_dims
        self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims)

    def init_weights(self) -> None:
        """Initialise as the official code: Xavier, and scales of 1 everywhere; once.

        Weights that ``init_cfg`` of the detector itself loads come last: ``DETR`` would draw those
        of the transformer anew.
        """
        if self._is_init:
            return
        super().init_weights()
        for layer in self.decoder.layers:
            if layer.num_scales:
                nn.init.zeros_(layer.scale.weight)
                nn.init.ones_(layer.scale.bias)
        loading = loading_entries(self.init_cfg)
        if loading:
            initialize(self, loading)

    def pre_transformer(self, img_feats: tuple[Tensor],
                        batch_data_samples: OptSampleList = None) -> tuple[dict, dict]:
        """Inputs of encoder and decoder, see ``DETR``; the decoder also gets sizes in cells."""
        encoder_inputs, decoder_inputs = super().pre_transformer(img_feats, batch_data_samples)
        decoder_inputs.update(grid_size=tuple(img_feats[-1].shape[-2:]),
                              cells=self.count_cells(img_feats[-1], batch_data_samples))
        return encoder_inputs, decoder_inputs

    def count_cells(self, feat: Tensor, batch_data_samples: OptSampleList,
                    share: float = 1.) -> Tensor:
        """How many cells wide and high the images are, without padding, on a feature map.

        Args:
            feat (Tensor): (B, C, H, W).
            batch_data_samples (list[DetDataSample]): The images.
            share (float): Stride of the map over ``reference_stride``.

        Returns:
            Tensor: (B, 2), of 32 bits at least: half precision would misplace the points.
        """
        images = [sample.img_shape for sample in batch_data_samples]
        if self.reference_stride is None:
            padded = batch_data_samples[0].batch_input_shape
            stride_x, stride_y = padded[1] / feat.shape[-1], padded[0] / feat.shape[-2]
        else:
            stride_x = stride_y = self.reference_stride * share
        return feat.new_tensor([[image[1] / stride_x, image[0] / stride_y] for image in images],
                               dtype=torch.promote_types(feat.dtype, torch.float32))

    def forward_decoder(self, query: Tensor, query_pos: Tensor, memory: Tensor,
                        memory_mask: Optional[Tensor], memory_pos: Tensor, cells: Tensor,
                        grid_size: tuple[int, int]) -> dict:
        """Hidden states (layers, B, L, C) and reference points (B, L, 2) before the sigmoid."""
        hidden_states, references = self.decoder(
            query=query, key=memory, value=memory, query_pos=query_pos, key_pos=memory_pos,
            key_padding_mask=memory_mask, cells=cells, grid_size=grid_size)
        return dict(hidden_states=hidden_states, references=references)
