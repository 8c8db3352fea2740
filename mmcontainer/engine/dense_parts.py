"""What becomes faster on a CPU in necks and heads, those of MMDetection for example, as they are.

Most of the time that a detector spends outside of its backbone goes into 3 x 3 convolutions of 256
channels or more, on the maps of a pyramid. Their ``forward`` is replaced, on the object itself, by
one that computes with fewer multiplications where that is faster on this machine. And from one
convolution to the next maps stay in the memory format that oneDNN computes in: the ``forward`` of
necks and heads that are known to be convolutions throughout is replaced by one that converts what
goes in.
"""
import functools
import time
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.wrappers import Conv2d
from torch import Tensor, nn

from ..layers.kept import Kept
from ..layers.memory_format import as_contiguous, is_nhwc, prefer_channels_last
from ..ops.capture import is_captured
from ..ops.precision import computing_dtype
from ..ops.winograd import winograd_conv2d, winograd_kernels

# With fewer channels the transformations take more time than the products save.
_FEWEST_CHANNELS, _FEWEST_POSITIONS = 256, 128
# By name, because MMDetection may be missing. A class that is derived from one of them may do
# anything, such as call operators of mmcv that ignore strides, so it is not meant.
_CONVOLUTIONS_THROUGHOUT = {
    'mmdet.models.necks.fpn.FPN', 'mmdet.models.dense_heads.retina_head.RetinaHead',
    'mmdet.models.dense_heads.rpn_head.RPNHead',
    'mmdet.models.roi_heads.mask_heads.fcn_mask_head.FCNMaskHead',
    'mmcontainer.detectors.small_init_mask_head.SmallInitMaskHead'}
_HARMLESS = ('torch.nn.', 'mmcv.cnn.', 'mmengine.model.', 'mmdet.models.losses.')


def deploy_dense_parts(model: nn.Module) -> list[nn.Module]:
    """Make neck and heads of a detector faster for inference on a CPU, in place.

    Results stay equal up to rounding, and on GPUs, with gradients and in exports they are what they
    were. The weights stay where they are, and may change.

    Args:
        model (nn.Module): Any model on a CPU; nothing happens to one elsewhere. Under
            ``torch.use_deterministic_algorithms`` convolutions stay as they are, since a stopwatch
            chooses their algorithm.

    Returns:
        list[nn.Module]: What was changed; without their attributes ``forward`` all is as before.
    """
    in_backbone = set(getattr(model, 'backbone', nn.Module()).modules())
    modules = [module for module in model.modules()
               if module not in in_backbone and 'forward' not in vars(module)]
    parts = [module for module in modules if _is_of_convolutions(module)]
    for part in parts:
        part.forward = _ChannelsLastForward(part)
    convs = [module for module in modules if _is_eligible(module)]
    if not convs or torch.are_deterministic_algorithms_enabled() or (
            not _winograd_is_faster(torch.get_num_threads())):
        return parts
    for conv in convs:
        conv.forward = _WinogradForward(conv)
    return parts + convs


def _is_of_convolutions(part: nn.Module) -> bool:
    inner = (module for module in part.modules() if module is not part)
    return (f'{type(part).__module__}.{type(part).__qualname__}' in _CONVOLUTIONS_THROUGHOUT
            and all(type(module).__module__.startswith(_HARMLESS)
                    and 'forward' not in vars(module) for module in inner)
            and all(weight.device.type == 'cpu' for weight in part.parameters()))


class _ChannelsLastForward:
    """The ``forward`` of a neck or head, in channels_last.

    A neck gives contiguous maps all the same, which mmcv's RoIAlign may read.
    """

    def __init__(self, part: nn.Module):
        self.part = part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = type(self.part).forward
        if torch.is_grad_enabled() or len(args) != 1 or kwargs:
            return forward(self.part, *args, **kwargs)
        maps, unused = args[0], getattr(self.part, 'start_level', 0)  # an FPN's, large ones
        if torch.is_tensor(maps):
            return forward(self.part, prefer_channels_last(maps))
        outs = forward(self.part, (*maps[:unused], *map(prefer_channels_last, maps[unused:])))
        return tuple(map(as_contiguous, outs)) if hasattr(self.part, 'start_level') else outs


def _is_eligible(conv: nn.Module) -> bool:
    # Subclasses, such as mmcv's with standardised weights, compute something else.
    return (type(conv) in (nn.Conv2d, Conv2d)
            and type(conv.weight) is nn.Parameter and conv.weight.device.type == 'cpu'
            and conv.kernel_size == (3, 3) and conv.groups == 1
            and conv.stride == conv.padding == conv.dilation == (1, 1)
            and conv.padding_mode == 'zeros'
            and min(conv.in_channels, conv.out_channels) >= _FEWEST_CHANNELS)


class _WinogradForward:
    """The ``forward`` of a 3 x 3 convolution; the result has the memory format of the input."""

    def __init__(self, conv: nn.Conv2d):
        self.conv = conv
        self._kept = Kept()

    def __call__(self, x: Tensor) -> Tensor:
        conv = self.conv
        if torch.is_grad_enabled():
            self._kept = Kept()  # weights may change unnoticed until the next inference
        if (x.dim() != 4 or x.device.type != 'cpu' or torch.is_grad_enabled() or is_captured()
                or x.dtype != torch.float32 or computing_dtype(x) != torch.float32
                or conv.weight.is_inference() or x[:, 0].numel() < _FEWEST_POSITIONS):
            return type(conv).forward(conv, x)
        out = winograd_conv2d(x, self._kernels(), conv.bias)
        # Maps of a neck or a head may go to operators of mmcv that ignore strides.
        return out if is_nhwc(x) else as_contiguous(out)

    def _kernels(self) -> Tensor:
        kept, weight = self._kept, self.conv.weight
        if not kept.is_of(weight):
            kept = self._kept = Kept(winograd_kernels(weight.detach()), weight)
        return kept.value


@functools.cache
@torch.no_grad()
def _winograd_is_faster(threads: int) -> bool:
    """Compare with PyTorch's convolution, once for every number of threads, in about 0.1 s.

    The products are MKL's, the convolutions oneDNN's: which of the two uses a processor better
    differs from one to the other.
    """
    channels = _FEWEST_CHANNELS
    x = torch.ones(1, channels, 32, 64).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(channels, channels, 3, 3)
    kernels = winograd_kernels(weight)
    seconds = []
    for call in (lambda: winograd_conv2d(x, kernels), lambda: F.conv2d(x, weight, padding=1)):
        call()
        times = []
        for _ in range(3):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
    return seconds[0] < seconds[1]
