"""Detectors, registered in MMDetection's registry; needs MMDetection and mmcv's operators."""
from .small_init_mask_head import SmallInitMaskHead
from .smca_detr import SMCADETR
from .smca_head import SMCAHead
from .smca_layers import SMCADecoder, SMCADecoderLayer, SMCAEncoder

__all__ = ['SMCADETR', 'SMCADecoder', 'SMCADecoderLayer', 'SMCAEncoder', 'SMCAHead',
           'SmallInitMaskHead']
