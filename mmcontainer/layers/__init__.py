"""Building blocks of the backbones, one idea per file."""
from .blur_pool import BlurPool
from .container_block import ContainerBlock
from .context_aggregation import AffinityMatrices, ContextAggregation
from .cot import CotLayer
from .cot_block import CotBlock
from .depthwise import DepthwiseConv2d
from .dropout_neck import DropoutNeck
from .gated_conv import GatedConv
from .map_norm import MapNorm
from .mbconv import CoAtNetStem, MBConv
from .mlp import ConvMlp
from .patch_embed import PatchEmbed
from .position_table import PositionTable
from .relative_attention import RelativeAttention, RelativeBlock
from .stage import Stage, recompute
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
    'AffinityMatrices', 'BlurPool', 'CoAtNetStem', 'ContainerBlock', 'ContextAggregation',
    'ConvMlp', 'CotBlock', 'CotLayer', 'DenseAffinity', 'DenseTokenAffinity', 'DepthwiseAffinity',
    'DepthwiseConv2d', 'DropoutNeck', 'GatedConv', 'GroupedConvolution', 'LowRankAffinity',
    'MBConv', 'MapNorm', 'PatchEmbed', 'PositionTable', 'RelativeAttention', 'RelativeBlock',
    'Stage', 'TokenAttention', 'TokenBlock', 'TokenEmbed', 'build_static_affinity', 'recompute'
]
