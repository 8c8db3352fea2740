"""Fixed linear steps folded into a neighbouring convolution.

Every function returns a new convolution and leaves its arguments alone, so that a module changes
only once all of its parts are known to fold.
"""
import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval


class CannotFold(Exception):
    """A part is hooked, or of another kind than the fold is made for."""


def _check(conv: nn.Module, norm: nn.Module) -> None:
    if type(conv) is not nn.Conv2d:
        raise CannotFold(f'{type(conv).__name__} in the place of a convolution')
    if not isinstance(norm, _BatchNorm) or norm.running_var is None or norm.weight is None:
        raise CannotFold(f'{type(norm).__name__} without fixed statistics or a scale')
    if any(part._forward_hooks or part._forward_pre_hooks for part in (conv, norm)):
        raise CannotFold('a hook')


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm as ``scale * x + shift``, in float64."""
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


@torch.no_grad()
def norm_then_conv(norm: nn.Module, conv: nn.Module) -> nn.Conv2d:
    """``conv(norm(x))`` as one 1x1 convolution.

    Raises:
        CannotFold: If one of the two is hooked or of another kind, or the convolution is not 1x1
            (with padding the fold would be wrong at borders).
    """
    _check(conv, norm)
    if conv.kernel_size != (1, 1) or conv.padding not in ((0, 0), 'valid') or conv.groups > 1:
        raise CannotFold(f'a convolution of size {conv.kernel_size} behind a norm')
    scale, shift = _scale_and_shift(norm)
    folded = copy.deepcopy(conv)
    weight = conv.weight.double().flatten(1)
    offset = weight @ shift + (0 if conv.bias is None else conv.bias.double())
    folded.bias = nn.Parameter(offset.to(conv.weight.dtype))
    folded.weight.copy_((weight * scale).view_as(conv.weight))
    return folded


@torch.no_grad()
def conv_then_norm(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    """``norm(conv(x))`` as one convolution.

    Raises:
        CannotFold: If one of the two is hooked or of another kind.
    """
    _check(conv, norm)
    return fuse_conv_bn_eval(conv, norm)


@torch.no_grad()
def channel_scale(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift (C, ) of a batch norm, in its own type.

    Raises:
        CannotFold: If it is hooked, or no batch norm with statistics.
    """
    _check(nn.Conv2d(1, 1, 1), norm)
    scale, shift = _scale_and_shift(norm)
    return scale.to(norm.weight.dtype), shift.to(norm.weight.dtype)


@torch.no_grad()
def conv_plus_identity(conv: nn.Module) -> nn.Conv2d:
    """``x + conv(x)`` as one depth-wise convolution of odd size.

    Raises:
        CannotFold: If it is hooked or no plain convolution.
    """
    if type(conv) is not nn.Conv2d or conv._forward_hooks or conv._forward_pre_hooks:
        raise CannotFold(f'{type(conv).__name__} in the place of a convolution, or a hook')
    folded = copy.deepcopy(conv)
    centre = conv.kernel_size[0] // 2
    folded.weight[:, 0, centre, centre] += 1
    return folded


def fold_pair(module: nn.Module, conv: str, norm: str) -> None:
    """Fold a norm of a module into the convolution before it, in place, if it can be folded.

    Args:
        module (nn.Module): Module that calls the norm right behind the convolution.
        conv (str): Name of the convolution, with dots for modules inside of modules.
        norm (str): Name of the norm; an identity takes its place.
    """
    try:
        folded = conv_then_norm(module.get_submodule(conv), module.get_submodule(norm))
    except CannotFold:
        return
    replace(module, conv, folded)
    replace(module, norm, nn.Identity())


def replace(module: nn.Module, name: str, part: nn.Module) -> None:
    """Put a module in the place of another one, given by name."""
    parent, _, child = name.rpartition('.')
    setattr(module.get_submodule(parent), child, part)
