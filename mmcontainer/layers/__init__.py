"""Building blocks of the backbones, one idea per file."""
from .container_block import ContainerBlock
from .context_aggregation import ContextAggregation
from .mlp import ConvMlp
from .patch_embed import PatchEmbed

__all__ = ['ContainerBlock', 'ContextAggregation', 'ConvMlp', 'PatchEmbed']
