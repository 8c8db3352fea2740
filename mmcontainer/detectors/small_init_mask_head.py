"""Mask R-CNN's mask head with a first prediction of one half everywhere."""
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from torch import nn


@MODELS.register_module()
class SmallInitMaskHead(FCNMaskHead):
    """MMDetection's ``FCNMaskHead`` whose last layer starts near zero, as in detectron2.

    MMDetection draws the weights of that 1x1 convolution with a standard deviation of
    ``sqrt(2 / num_classes)``: 0.16 for the 80 classes of COCO, but 0.7 for 4 and 1.4 for 1. With
    few classes the first logits have a standard deviation of 10 to 20 and the first loss is 4 to 12
    in place of ``log 2 = 0.69`` (``docs/numerics.md``). Names and shapes of weights are the same.

    Args:
        args, kwargs: Arguments of MMDetection's ``FCNMaskHead``.
    """

    def init_weights(self) -> None:
        super().init_weights()
        nn.init.normal_(self.conv_logits.weight, std=0.001)
