"""The memory format in which convolutions are fastest, whatever surrounds a backbone.

On CPUs that is channels_last: oneDNN would reorder every map of another format, in bfloat16 by a
slow copy, and a sum of maps in two formats takes five times as long as one in either. Compilers and
exporters choose themselves, and GPUs get what the caller gave. What leaves a backbone is
contiguous: operators of mmcv read a map's memory as if it were, without a check.
"""
import torch
from torch import Tensor

from ..ops.capture import is_captured
from ..torch_compat import is_compiling


def is_nhwc(x: Tensor) -> bool:
    """Tell whether the format is channels_last alone (a 1 x 1 map is in both formats)."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _chooses(x: Tensor) -> bool:
    return x.device.type == 'cpu' and not is_captured()


def prefer_channels_last(x: Tensor) -> Tensor:
    """Feature map (B, C, H, W) in the best format; copied only if it is in another one."""
    return x.contiguous(memory_format=torch.channels_last) if _chooses(x) else x


def as_stage_input(x: Tensor, before: Tensor) -> Tensor:
    """``x`` of a norm over channels, which works on (B, H, W, C), as convolutions like it best.

    That memory is channels_last, and on a CPU it stays. Elsewhere the map gets the format of
    ``before``, which went into the norm, and is made contiguous for Inductor, which (2.12) cannot
    order these strides when shapes are dynamic.
    """
    if x.device.type == 'cpu':
        return x.contiguous() if is_compiling() else x
    return x if not is_captured() and is_nhwc(before) else x.contiguous()


def with_channels_last_gradient(x: Tensor) -> Tensor:
    """``x``, whose gradient continues in the best format, whatever loss it comes from."""
    if not (x.requires_grad and _chooses(x)):
        return x
    x = x.view_as(x)  # a tensor of its own, for the hook not to see other gradients of x
    x.register_hook(prefer_channels_last)
    return x


def as_output(x: Tensor) -> Tensor:
    """``x`` as a backbone returns it: contiguous, with the gradient of
    :func:`with_channels_last_gradient`.

    mmcv's RoIAlign takes the address of a map and ignores its strides: it would pool other
    channels and positions of a channels_last map than the ones asked for, without a word.
    """
    return as_contiguous(with_channels_last_gradient(x))


def as_contiguous(x: Tensor) -> Tensor:
    """``x.contiguous()``, on a CPU with few threads faster where ``x`` is in channels_last.

    PyTorch transposes a matrix in blocks that fit into the cache, on one thread, but a map line by
    line, on all threads: (1, 64, 200, 336) takes 5 and 26 ms on one thread, 4 and 9 ms on two.
    """
    if (x.requires_grad or not _chooses(x) or torch.get_num_threads() > 2 or x.dim() != 4
            or not is_nhwc(x)):
        return x.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype)
    for image, source in zip(out, x):
        image.flatten(1).copy_(source.flatten(1))
    return out
