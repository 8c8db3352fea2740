"""Forms of the layers for inference, which take the place of the training forms.

Layers outside of this folder work neither in place nor with fused operators (a memory format is
chosen in ``memory_format``, and the MLP of convolutions recomputes its hidden maps in training,
``ops.mlp``). :func:`deploy` is the only way in; every form here gives the numbers of the layer it
replaces, up to rounding, and has the names of its parameters except for the norms'.
"""
from torch import nn

from ..container_block import ContainerBlock
from ..cot import CotLayer
from ..cot_block import CotBlock
from ..depthwise import DepthwiseConv2d
from ..gated_conv import GatedConv
from ..mbconv import CoAtNetStem, MBConv
from ..mlp import ConvMlp
from ..relative_attention import RelativeAttention
from .coatnet import DeployedRelativeAttention, fold_mbconv, fold_stem
from .container import DeployedContainerBlock, DeployedConvMlp
from .cot import DeployedCotBlock, DeployedCotLayer, fold_gated_conv
from .fold import CannotFold, fold_pair
from .packed import PackedConv2d

__all__ = ['deploy', 'fold_pair']

# Each takes a layer of the class in evaluation mode and returns what replaces it.
FORMS = {
    ContainerBlock: DeployedContainerBlock,
    ConvMlp: DeployedConvMlp,
    CotBlock: DeployedCotBlock,
    CotLayer: DeployedCotLayer,
    GatedConv: fold_gated_conv,
    CoAtNetStem: fold_stem,
    MBConv: fold_mbconv,
    RelativeAttention: DeployedRelativeAttention,
    DepthwiseConv2d: PackedConv2d,
    nn.Conv2d: PackedConv2d,
}


def deploy(module: nn.Module) -> None:
    """Replace the layers inside a module by their forms for inference, in place.

    A layer stays as it is, and with it its numbers and its hooks, where one of its norms or
    convolutions is hooked or is not what the layer's own constructor builds. Hooks on other
    modules go on firing: forms with hooks inside call every module as the training form does.
    """
    for name, child in list(module.named_children()):
        form = FORMS.get(type(child))
        if form is not None:
            try:
                child = form(child)
            except CannotFold:
                pass
            setattr(module, name, child)
        deploy(child)
