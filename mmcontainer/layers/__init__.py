"""Building blocks of the backbones, one idea per file."""
from .container_block import ContainerBlock
from .context_aggregation import Affinities, ContextAggregation
from .mlp import ConvMlp
from .patch_embed import PatchEmbed
from .position_table import PositionTable
from .static_affinity import (
    DenseAffinity,
    DepthwiseAffinity,
    GroupedConvolution,
    LowRankAffinity,
    build_static_affinity,
)
from .token_attention import DenseTokenAffinity, TokenAttention
from .token_block import TokenBlock, TokenEmbed

__all__ = [
    'Affinities', 'ContainerBlock', 'ContextAggregation', 'ConvMlp', 'DenseAffinity',
    'DenseTokenAffinity', 'DepthwiseAffinity', 'GroupedConvolution', 'LowRankAffinity',
    'PatchEmbed', 'PositionTable', 'TokenAttention', 'TokenBlock', 'TokenEmbed',
    'build_static_affinity'
]
