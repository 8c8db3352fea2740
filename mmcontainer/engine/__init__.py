"""Hooks, initialisers and optimizer wrappers, registered in MMEngine."""
from .amp import CPUAmpOptimWrapper
from .buffers import AverageBuffersHook
from .checkpoint_hook import SafeCheckpointHook
from .dense_parts import deploy_dense_parts
from .deploy import DeployHook
from .draw_hooks import DrawDetectionsHook, DrawLabelsHook, DrawMapsHook
from .dump_maps import DumpMaps
from .initializers import ResetParameters, StrictPretrained
from .invalid_loss import StopWhenDivergedHook
from .on_track import OnTrackHook
from .precise_bn import PreciseBNHook
from .rng_state import RNGStateHook

__all__ = [
    'AverageBuffersHook', 'CPUAmpOptimWrapper', 'DeployHook', 'DrawDetectionsHook',
    'DrawLabelsHook', 'DrawMapsHook', 'DumpMaps', 'OnTrackHook', 'PreciseBNHook', 'RNGStateHook',
    'ResetParameters', 'SafeCheckpointHook', 'StopWhenDivergedHook', 'StrictPretrained',
    'deploy_dense_parts'
]
