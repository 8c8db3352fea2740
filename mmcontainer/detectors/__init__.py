"""Detectors and parts of them, registered in MMDetection; needs it and mmcv's operators."""
from .detectron2_cascade import Detectron2CascadeRoIHead
from .multi_scale_smca_detr import MultiScaleSMCADETR
from .multi_scale_smca_layers import (
    MultiScaleSMCADecoder,
    MultiScaleSMCADecoderLayer,
    MultiScaleSMCAEncoder,
    MultiScaleSMCAEncoderLayer,
)
from .small_init_mask_head import SmallInitMaskHead
from .smca_detr import SMCADETR
from .smca_head import SMCAHead
from .smca_layers import SMCADecoder, SMCADecoderLayer, SMCAEncoder

__all__ = ['Detectron2CascadeRoIHead', 'MultiScaleSMCADETR', 'MultiScaleSMCADecoder',
           'MultiScaleSMCADecoderLayer', 'MultiScaleSMCAEncoder', 'MultiScaleSMCAEncoderLayer',
           'SMCADETR', 'SMCADecoder', 'SMCADecoderLayer', 'SMCAEncoder', 'SMCAHead',
           'SmallInitMaskHead']
