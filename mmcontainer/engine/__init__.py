"""What the training engine needs beyond MMEngine: initialisers, hooks, wrappers."""
from .amp import CPUAmpOptimWrapper
from .draw_labels import DrawLabelsHook
from .initializers import StrictPretrained
from .precise_bn import PreciseBNHook
from .rng_state import RNGStateHook

__all__ = [
    'CPUAmpOptimWrapper', 'DrawLabelsHook', 'PreciseBNHook', 'RNGStateHook', 'StrictPretrained'
]
