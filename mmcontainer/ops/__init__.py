"""Pure functions on tensors: the fast forms of context aggregation and their explicit twins."""
from .affinity import aggregate, attention_affinity, depthwise_affinity, mixed_affinity
from .aggregation import depthwise_aggregation, merge_heads, mix, self_attention, split_heads
from .fold import add_identity_to_depthwise, fold_norm_into_conv

__all__ = [
    'aggregate', 'attention_affinity', 'depthwise_affinity', 'mixed_affinity',
    'depthwise_aggregation', 'merge_heads', 'mix', 'self_attention', 'split_heads',
    'add_identity_to_depthwise', 'fold_norm_into_conv'
]
