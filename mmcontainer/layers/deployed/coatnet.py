"""CoAtNet's blocks for inference: folded, and the resized tables of positions kept."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...ops.capture import is_captured
from ..kept import Kept
from ..mbconv import CoAtNetStem, MBConv
from ..relative_attention import RelativeAttention
from .fold import fold_pair


def fold_stem(stem: CoAtNetStem) -> CoAtNetStem:
    """Fold the norm into the convolution before it, in place."""
    fold_pair(stem, 'conv1', 'norm1')
    return stem


def fold_mbconv(block: MBConv) -> MBConv:
    """Fold norms into the convolutions beside them, in place.

    The first norm folds into the 1x1 convolution behind it unless an activation or a maximum lies
    between; the last one does not where the gate does. Those stay.
    """
    fold_pair(block, 'conv1', 'norm1')
    if not block.gate_early:
        fold_pair(block, 'conv2', 'norm2')
    if isinstance(block.pre_act, nn.Identity) and not isinstance(block.down, nn.MaxPool2d):
        fold_pair(block, 'conv1', 'pre_norm', norm_first=True)
    return block


class DeployedRelativeAttention(RelativeAttention):
    """:class:`RelativeAttention` that keeps the table of the last map size."""

    def __init__(self, attention: RelativeAttention):
        self.__dict__.update(attention.__dict__)
        self._kept = None, Kept()

    def resized_table(self, grid_size: Sequence[int]) -> Tensor:
        if torch.is_grad_enabled():
            self._kept = None, Kept()
        # What is kept may be gone when a graph of CUDA is run again. Compilers do not know that
        # question, and must have been answered before.
        if torch.is_grad_enabled() or is_captured() or self.table.is_inference() or (
                torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()):
            return super().resized_table(grid_size)
        size, kept = self._kept
        if size != tuple(grid_size) or not kept.is_of(self.table):
            kept = Kept(super().resized_table(grid_size), self.table)
            self._kept = tuple(grid_size), kept
        return kept.value
