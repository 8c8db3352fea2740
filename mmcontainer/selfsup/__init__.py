"""DINO (arXiv 2104.14294) as Table 6 of the Container paper uses it; needs MMPretrain.

Registered in MMPretrain and, for what trains, in MMEngine, by::

    custom_imports = dict(imports=['mmcontainer', 'mmcontainer.selfsup'],
                          allow_failed_imports=False)
"""
from .dino import DINO
from .dino_head import DINOHead
from .dino_hook import DINOHook
from .dino_loss import DINOLoss
from .knn import KNNAccuracy
from .reference_images import MarkReference
from .teacher import TeacherEMA
from .vision_transformer import DeiTVisionTransformer, DINOVisionTransformer
from .weight_decay import CosineAnnealingWeightDecay

__all__ = [
    'CosineAnnealingWeightDecay', 'DINO', 'DINOHead', 'DINOHook', 'DINOLoss',
    'DINOVisionTransformer', 'DeiTVisionTransformer', 'KNNAccuracy', 'MarkReference', 'TeacherEMA'
]
