"""The Container block for inference: folded, in place, and its MLP in chunks."""
from torch import Tensor

from ...ops.mlp import chunks_of
from ..container_block import ContainerBlock
from ..context_aggregation import ContextAggregation
from ..mlp import ConvMlp
from .fold import CannotFold, check_drop_path, conv_plus_identity, norm_then_conv
from .pointwise import may_overwrite, pointwise


class DeployedConvMlp(ConvMlp):
    """:class:`ConvMlp` with its activation inside of the first convolution."""

    def __init__(self, mlp: ConvMlp):
        self.__dict__.update(mlp.__dict__)

    def forward(self, x: Tensor) -> Tensor:
        if not may_overwrite(self):
            return super().forward(x)
        return pointwise(self.fc2, pointwise(self.fc1, x, self.act))

    def add_to(self, x: Tensor) -> Tensor:
        """``x += self(x)`` in chunks, so that the whole hidden map never exists; returns ``x``."""
        for chunk in chunks_of(x, self.fc1.out_channels):
            pointwise(self.fc2, pointwise(self.fc1, chunk, self.act), out=chunk)
        return x


class DeployedContainerBlock(ContainerBlock):
    """:class:`ContainerBlock` without norms, its residuals added in place.

    ::

        x = DWConv3x3'(x)             the identity is in the kernel
        x += aggregation'(x)          the norms are in the first 1x1 convolution
        x += MLP'(x)                  in chunks of rows: its hidden map would be the largest of all

    Raises:
        CannotFold: If a part is hooked, or is not what :class:`ContainerBlock` builds.
    """

    def __init__(self, block: ContainerBlock):
        if type(block.aggregation) is not ContextAggregation or type(block.mlp) is not ConvMlp:
            raise CannotFold('another aggregation or MLP')
        check_drop_path(block.drop_path)
        in_proj = norm_then_conv(block.norm1, block.aggregation.in_proj)
        fc1 = norm_then_conv(block.norm2, block.mlp.fc1)
        pos_embed = None if block.pos_embed is None else conv_plus_identity(block.pos_embed)
        self.__dict__.update(block.__dict__)
        self.pos_embed, self.aggregation.in_proj = pos_embed, in_proj
        self.mlp = DeployedConvMlp(block.mlp)
        self.mlp.fc1 = fc1
        del self.norm1, self.norm2, self.drop_path

    def forward(self, x: Tensor) -> Tensor:
        if not may_overwrite(self):
            x = x if self.pos_embed is None else self.pos_embed(x)
            x = x + self.aggregation(x)
            return x + self.mlp(x)
        # The result of the position embedding is the block's own; x itself is the caller's.
        x = x.clone() if self.pos_embed is None else self.pos_embed(x)
        projected = pointwise(self.aggregation.in_proj, x)
        pointwise(self.aggregation.out_proj, self.aggregation.aggregate(projected), out=x)
        return self.mlp.add_to(x)
