"""Multi-scale SMCA-DETR, as its authors released it: an encoder of convolutions on four levels."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList
from torch import Tensor, nn

from .multi_scale_smca_layers import (
    GROUP_STRIDES,
    STRIDES,
    MultiScaleSMCADecoder,
    MultiScaleSMCAEncoder,
    check_halves,
    cut_to,
    join_levels,
    split_levels,
)
from .smca_detr import SMCADETR


@MODELS.register_module()
class MultiScaleSMCADETR(SMCADETR):
    """SMCA-DETR on levels of strides 8, 16, 32 and 64.

    The encoder exchanges features between the levels by depth-wise convolutions, without attention.
    The decoder sees four groups of keys, which are level 8 reduced to the size of level 16, and
    levels 16, 32 and 64. In each group every head has a point and a scale of its own, and every
    query weighs the groups. Equal to the released model with AP 44.4 (gaopengcuhk/SMCA-DETR,
    Multi_scale_SMCA.zip), which differs from the paper's (arXiv 2101.07448): that one has attention
    in the encoder and was never released. Two things differ on purpose: every image of a batch has
    weights of its own for the groups, where the release takes those of the first, and maps may have
    any size.

    Args:
        args, kwargs: Arguments of :class:`SMCADETR`. The neck gives the four levels: MMDetection's
            ``ChannelMapper`` on maps of strides 8, 16 and 32, whose extra convolution makes level
            64 out of the backbone's last map. ``encoder`` and ``decoder`` hold arguments of
            :class:`MultiScaleSMCAEncoder` and :class:`MultiScaleSMCADecoder`. The groups' strides
            follow ``reference_stride``.

    Raises:
        ValueError: See :class:`SMCADETR`; in the forward pass if there are other than four levels,
            or a level has not half the size of the one before.
    """
    encoder_class, decoder_class = MultiScaleSMCAEncoder, MultiScaleSMCADecoder

    def _init_layers(self) -> None:
        super()._init_layers()
        self.level_embedding = nn.Embedding(len(STRIDES), self.embed_dims)
        self.reduce = nn.Conv2d(self.embed_dims, self.embed_dims, 3, stride=2, padding=1)

    def pre_transformer(self, img_feats: Sequence[Tensor],
                        batch_data_samples: OptSampleList = None) -> tuple[dict, dict]:
        """Inputs of encoder and decoder.

        Args:
            img_feats (Sequence[Tensor]): The four levels (B, C, H, W) of the neck.
            batch_data_samples (list[DetDataSample]): The images.

        Returns:
            tuple[dict, dict]: Arguments of :meth:`forward_encoder` and :meth:`forward_decoder`.
        """
        if len(img_feats) != len(STRIDES):
            raise ValueError(
                f'MultiScaleSMCADETR needs {len(STRIDES)} levels of strides '
                f'{", ".join(map(str, STRIDES))}, the neck gives {len(img_feats)}. Take a '
                'ChannelMapper with three in_channels and num_outs=4.')
        check_halves([feat.shape[-2:] for feat in img_feats])
        padded = batch_data_samples[0].batch_input_shape
        images = [sample.img_shape for sample in batch_data_samples]
        is_padded = any(tuple(image[:2]) != tuple(padded) for image in images)
        pixels = img_feats[0].new_ones(len(images), 1, *padded)
        for pixel, (height, width, *_) in zip(pixels, images):
            pixel[:, :height, :width] = 0
        masks = [F.interpolate(pixels, feat.shape[-2:]).bool()[:, 0] for feat in img_feats[:-1]]
        encoder_inputs, decoder_inputs = self.arrange(img_feats, masks)
        if not is_padded:
            decoder_inputs['memory_mask'] = None
        groups = [img_feats[1], *img_feats[1:]]
        decoder_inputs['cells'] = torch.stack([
            self.count_cells(feat, batch_data_samples, stride)
            for feat, stride in zip(groups, GROUP_STRIDES)])
        return encoder_inputs, decoder_inputs

    def arrange(self, img_feats: Sequence[Tensor], masks: list[Tensor]) -> tuple[dict, dict]:
        """Put levels and groups one after the other, with their positions.

        Args:
            img_feats (Sequence[Tensor]): The four levels (B, C, H, W).
            masks (list[Tensor]): Padding (B, H, W) of the first three, bool.

        Returns:
            tuple[dict, dict]: As :meth:`pre_transformer`, without ``cells``.
        """
        masks = [*masks, coarser_mask(masks[-1], img_feats[-1].shape[-2:])]
        positions = [
            self.positional_encoding(mask) + level[:, None, None]
            for mask, level in zip(masks, self.level_embedding.weight)]
        sizes = [tuple(feat.shape[-2:]) for feat in img_feats]
        encoder_inputs = dict(feat=join_levels(img_feats), feat_pos=join_levels(positions),
                              grid_sizes=sizes)
        decoder_inputs = dict(
            memory_mask=torch.cat([mask.flatten(1) for mask in (masks[1], *masks[1:])], dim=1),
            memory_pos=join_levels([positions[1], *positions[1:]]),
            grid_size=[sizes[1], *sizes[1:]])
        return encoder_inputs, decoder_inputs

    def forward_encoder(self, feat: Tensor, feat_pos: Tensor,
                        grid_sizes: Sequence[Sequence[int]]) -> dict:
        """Encode levels (B, N, C) into the ``memory`` (B, S, C) of the decoder's groups."""
        encoded = self.encoder(feat, feat_pos, None, grid_sizes=grid_sizes)
        finest, *others = split_levels(encoded, grid_sizes)
        reduced = cut_to(self.reduce(finest), grid_sizes[1])
        return dict(memory=join_levels([reduced, *others]))


def coarser_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Padding (B, H, W) of a level at the size of the next one.

    A cell is what the cell at its upper left corner is. The released code has this mask of a mask
    for level 64, which differs in some cells from one made of the image's.
    """
    rows, columns = (torch.arange(new, device=mask.device) * old // new
                     for old, new in zip(mask.shape[-2:], size))
    return mask[:, rows][:, :, columns]
