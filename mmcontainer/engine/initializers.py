"""Initialisers: one that loads all weights of a backbone or raises, and PyTorch's own."""
from collections.abc import Sequence
from typing import Union

from mmengine.logging import print_log
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from ..checkpoints import load_backbone, resolve_path
from ..checkpoints.official import missing_message


@WEIGHT_INITIALIZERS.register_module()
class StrictPretrained:
    """Load a complete set of backbone weights, or stop.

    Unlike MMEngine's ``Pretrained`` it converts official files on the fly, finds the ``backbone.``
    prefix itself, reads files without executing code, and raises when a weight is missing, left
    over or of another shape: a model can never train from scratch unnoticed.

    Args:
        checkpoint (str): File of weights; ``name.pth`` also finds ``name-xxxxxxxx.pth``. A path
            that is not absolute is relative to the current directory.

    Raises:
        FileNotFoundError: No such file; says where the official one is and how to convert it.
        KeyMismatchError, UnsafeCheckpointError, CorruptCheckpointError: See
            :func:`mmcontainer.checkpoints.load_backbone`.

    Examples:
        >>> init_cfg = dict(
        ...     type='StrictPretrained', checkpoint='checkpoints/container_light_in1k.pth')
    """

    def __init__(self, checkpoint: str):
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        try:
            path = resolve_path(self.checkpoint)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'{error}\n{missing_message(self.checkpoint)}') from None
        load_backbone(module, self.checkpoint)
        print_log(f'Loaded all weights of {type(module).__name__} from {path}.', logger='current')


@WEIGHT_INITIALIZERS.register_module()
class ResetParameters:
    """Initialise layers as PyTorch's constructors do, biases included.

    MMEngine's ``Kaiming`` gives the same weights, but a constant bias, where PyTorch draws biases
    uniformly within one over the root of the number of inputs.

    Args:
        layer (str | Sequence[str]): Names of the classes whose instances are initialised.

    Raises:
        ValueError: If the module has no such layer, or the layer no initialisation of its own.

    Examples:
        >>> init_cfg = dict(type='ResetParameters', layer='Conv2d')
    """

    def __init__(self, layer: Union[str, Sequence[str]]):
        self.layers = (layer, ) if isinstance(layer, str) else tuple(layer)

    def __call__(self, module: nn.Module) -> None:
        found = [child for child in module.modules() if type(child).__name__ in self.layers
                 and hasattr(child, 'reset_parameters')]
        if not found:
            raise ValueError(f'ResetParameters found no {" or ".join(self.layers)} to initialise '
                             f'in {type(module).__name__}.')
        for child in found:
            child.reset_parameters()
