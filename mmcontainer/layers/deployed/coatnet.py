"""CoAtNet's blocks for inference: folded, and the resized tables of positions kept."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...ops.capture import is_captured
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
        self._kept = None

    def resized_table(self, grid_size: Sequence[int]) -> Tensor:
        if torch.is_grad_enabled() or is_captured() or self.table.is_inference():
            return super().resized_table(grid_size)
        # The table itself changes where weights are loaded or converted to another type.
        key = (tuple(grid_size), self.table._version, self.table.data_ptr(), self.table.dtype)
        if self._kept is None or self._kept[0] != key:
            self._kept = key, super().resized_table(grid_size)
        return self._kept[1]
