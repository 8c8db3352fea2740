"""Pure functions on tensors: the fast forms of context aggregation and their explicit twins."""
from .aggregation import (
    dense_aggregation,
    depthwise_aggregation,
    low_rank_aggregation,
    merge_heads,
    mix,
    self_attention,
    split_heads,
)
from .depthwise import depthwise_conv2d
from .explicit import (
    aggregate,
    attention_affinity,
    depthwise_affinity,
    gaussian_affinity,
    gaussian_bias,
    local_affinity,
    mixed_affinity,
    multi_scale_gaussian_affinity,
    relative_affinity,
    relative_bias,
    resize_affinity,
)
from .fused_attention import fused_attention
from .local_aggregation import local_aggregation, unfold_local_aggregation
from .mlp import pointwise_mlp
from .modulated_attention import gaussian_attention
from .multi_scale_attention import multi_scale_gaussian_attention
from .relative_attention import biased_attention, relative_attention
from .resize import at_grid_size, resize_map
from .spatial_mean import spatial_mean

__all__ = [
    'aggregate', 'at_grid_size', 'attention_affinity', 'biased_attention', 'dense_aggregation',
    'depthwise_affinity', 'depthwise_aggregation', 'depthwise_conv2d', 'fused_attention',
    'gaussian_affinity', 'gaussian_attention', 'gaussian_bias', 'local_affinity',
    'local_aggregation', 'low_rank_aggregation', 'merge_heads', 'mix', 'mixed_affinity',
    'multi_scale_gaussian_affinity', 'multi_scale_gaussian_attention', 'pointwise_mlp',
    'relative_affinity', 'relative_attention', 'relative_bias', 'resize_affinity', 'resize_map',
    'self_attention', 'spatial_mean', 'split_heads', 'unfold_local_aggregation'
]
