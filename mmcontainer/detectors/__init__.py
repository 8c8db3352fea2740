"""Detectors and parts of them, registered in MMDetection; needs it and mmcv's operators."""
from .detectron2_cascade import Detectron2CascadeRoIHead
from .small_init_mask_head import SmallInitMaskHead
from .smca_detr import SMCADETR
from .smca_head import SMCAHead
from .smca_layers import SMCADecoder, SMCADecoderLayer, SMCAEncoder

__all__ = ['Detectron2CascadeRoIHead', 'SMCADETR', 'SMCADecoder', 'SMCADecoderLayer', 'SMCAEncoder',
           'SMCAHead', 'SmallInitMaskHead']
