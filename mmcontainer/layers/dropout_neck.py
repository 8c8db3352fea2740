"""Dropout between the pooling and the linear layer of a classifier."""
from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class DropoutNeck(nn.Dropout):
    """Dropout of every map of a backbone or neck, as the last of MMPretrain's necks.

    MMPretrain's linear heads have no dropout. CoTNet's classifiers are trained with it
    (``drop: 0.25`` in the official files).

    Args:
        p (float): Share of the values that are set to zero in training.

    Examples:
        >>> neck = [dict(type='GlobalAveragePooling'), dict(type='DropoutNeck', p=0.25)]
    """

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(nn.Dropout.forward(self, x) for x in inputs)
