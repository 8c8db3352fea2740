"""Fixed linear steps folded into a neighbouring convolution.

What folds returns new convolutions and leaves its arguments alone, so that a module changes only
once all of its parts are known to fold.
"""
import copy

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..depthwise import DepthwiseConv2d

# Subclasses may have another input check; with another forward they compute something else.
_NORMS = _BatchNorm.forward, nn.SyncBatchNorm.forward


class CannotFold(Exception):
    """A part is hooked, or of another kind than the fold is made for."""


def _check_conv(conv: nn.Module) -> None:
    if type(conv) not in (nn.Conv2d, DepthwiseConv2d):
        raise CannotFold(f'{type(conv).__name__} in the place of a convolution')
    _check_hooks(conv)


def _check_norm(norm: nn.Module) -> None:
    if type(norm).forward not in _NORMS or norm.running_var is None or norm.weight is None:
        raise CannotFold(f'{type(norm).__name__} without fixed statistics or a scale')
    _check_hooks(norm)


def _check_hooks(module: nn.Module) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        raise CannotFold(f'a hook on {type(module).__name__}')


def check_drop_path(drop_path: nn.Module) -> None:
    """Check that nothing is lost where it is never called.

    Raises:
        CannotFold: If it is hooked, or does something in evaluation.
    """
    if type(drop_path) not in (DropPath, nn.Identity):
        raise CannotFold(f'{type(drop_path).__name__} in the place of DropPath')
    _check_hooks(drop_path)


def _exact(value: Tensor) -> Tensor:
    """In float64; Apple's GPUs have none, so that it is computed on the CPU there."""
    return (value.cpu() if value.device.type == 'mps' else value).double()


@torch.no_grad()
def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm as ``scale * x + shift``, both (C, ) in float64.

    Raises:
        CannotFold: If it is hooked, or no batch norm with statistics.
    """
    _check_norm(norm)
    scale = _exact(norm.weight) / torch.sqrt(_exact(norm.running_var) + norm.eps)
    bias = 0 if norm.bias is None else _exact(norm.bias)  # BatchNorm2d(bias=False), torch 2.12
    return scale, bias - _exact(norm.running_mean) * scale


@torch.no_grad()
def norm_then_conv(norm: nn.Module, conv: nn.Module) -> nn.Conv2d:
    """``conv(norm(x))`` as one 1x1 convolution.

    Raises:
        CannotFold: If one of the two is hooked or of another kind, or the convolution is not 1x1
            (with padding the fold would be wrong at borders).
    """
    _check_conv(conv)
    if conv.kernel_size != (1, 1) or conv.padding not in ((0, 0), 'valid') or conv.groups > 1:
        raise CannotFold(f'a convolution of size {conv.kernel_size} behind a norm')
    scale, shift = scale_and_shift(norm)
    folded = copy.deepcopy(conv)
    weight = _exact(conv.weight).flatten(1)
    offset = weight @ shift + (0 if conv.bias is None else _exact(conv.bias))
    folded.bias = nn.Parameter(offset.to(conv.weight))
    folded.weight.copy_((weight * scale).view_as(conv.weight))
    return folded


@torch.no_grad()
def conv_then_norm(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    """``norm(conv(x))`` as one convolution.

    Raises:
        CannotFold: If one of the two is hooked or of another kind.
    """
    _check_conv(conv)
    _check_norm(norm)
    return fuse_conv_bn_eval(conv, norm)


@torch.no_grad()
def conv_plus_identity(conv: nn.Module) -> nn.Conv2d:
    """``x + conv(x)`` as one depth-wise convolution of odd size.

    Raises:
        CannotFold: If it is hooked or no plain convolution.
    """
    _check_conv(conv)
    folded = copy.deepcopy(conv)
    centre = conv.kernel_size[0] // 2
    folded.weight[:, 0, centre, centre] += 1
    return folded


def fold_pair(module: nn.Module, conv: str, norm: str, norm_first: bool = False) -> None:
    """Fold a norm of a module into the convolution beside it, in place, if it can be folded.

    Args:
        module (nn.Module): Module that calls one of the two right behind the other.
        conv (str): Name of the convolution, with dots for modules inside of modules.
        norm (str): Name of the norm; an identity takes its place.
        norm_first (bool): The norm comes before the convolution.
    """
    pair = module.get_submodule(conv), module.get_submodule(norm)
    try:
        folded = norm_then_conv(*pair[::-1]) if norm_first else conv_then_norm(*pair)
    except CannotFold:
        return
    replace(module, conv, folded)
    replace(module, norm, nn.Identity())


def replace(module: nn.Module, name: str, part: nn.Module) -> None:
    """Put a module in the place of another one, given by name."""
    parent, _, child = name.rpartition('.')
    setattr(module.get_submodule(parent), child, part)
