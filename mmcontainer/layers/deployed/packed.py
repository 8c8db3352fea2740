"""Convolutions that keep their weights as oneDNN lays them out, for inference on a CPU.

oneDNN computes with weights in a layout of its own, which depends on the size of the map, and lays
them out anew in every call; under autocast PyTorch also rounds them anew. For small maps that takes
as long as the convolution. And one by one, bias, activation and residual each read and write the
whole map; between them the map has left the cache, while oneDNN applies them to the values that its
product still holds in registers. PyTorch reaches both through the operators that ``torch.compile``
puts in place of convolutions; used directly they need no compiler.
"""
from typing import Optional

import torch
from torch import Tensor, nn

from ...ops.capture import is_captured
from ...ops.precision import computing_dtype
from ..kept import Kept
from ..memory_format import is_nhwc

# Sizes of maps, the latest, that weights are kept for: an image upright and across, and the two
# sizes of chunk that the MLP divides each into.
KEPT_SIZES = 4


def _fuses(x: Tensor, out: Optional[Tensor]) -> bool:
    """Tell whether oneDNN's fused operators apply."""
    if (type(x) is not Tensor or x.device.type != 'cpu' or not torch.backends.mkldnn.enabled
            or torch.is_grad_enabled() or is_captured()):
        return False
    if not hasattr(torch.ops.mkldnn, '_convolution_pointwise'):  # built without oneDNN
        return False
    if x.dtype != torch.float32 and not (
            x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    return x.numel() > 0 and is_nhwc(x) and (
        out is None or (is_nhwc(out) and out.dtype == x.dtype))


class PackedConv2d(nn.Conv2d):
    """A convolution with the parameters, the hooks and the numbers of another one.

    What is kept beside the parameters (:class:`~mmcontainer.layers.kept.Kept`) is no part of a
    copy, a pickle or a state dict, and is made again when they change.
    """

    def __init__(self, conv: nn.Conv2d):
        self.__dict__.update(conv.__dict__)
        self._kept: dict[tuple, Optional[Kept]] = {}

    def _apply(self, *args, **kwargs) -> nn.Module:
        self._kept = {}
        return super()._apply(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fused(x)

    def fused(self, x: Tensor, activation: Optional[str] = None,
              out: Optional[Tensor] = None) -> Tensor:
        """``activation(conv(x))``, or with ``out`` ``activation(out + conv(x))`` in its place.

        Under autocast it computes in the type of autocast, like any convolution.

        Args:
            x (Tensor): Feature map (B, C, H, W).
            activation (str, optional): 'gelu' (exact), 'relu' or nothing.
            out (Tensor, optional): What to add to, overwritten and returned.

        Returns:
            Tensor: (B, C_out, H_out, W_out).
        """
        x = x.to(computing_dtype(x))
        if torch.is_grad_enabled():
            self._kept = {}  # between here and the next inference weights may change unnoticed
        if not _fuses(x, out) or not self._is_ordinary():
            return _add_and_activate(super().forward(x), activation, out)
        weight, bias = self._laid_out(x)
        geometry = self.padding, self.stride, self.dilation, self.groups
        if out is not None:
            y = torch.ops.mkldnn._convolution_pointwise_.binary(
                out, x, weight, bias, *geometry, 'add', 1., None, [], None)
            return _add_and_activate(y, activation, None)
        # Only GELU, by the error function ('none' approximates it): oneDNN's ReLU turns NaN into 0.
        fused = 'gelu' if activation == 'gelu' else 'none'
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, fused, [], 'none')
        return _add_and_activate(y, None if fused == activation else activation, None)

    def _is_ordinary(self) -> bool:
        return (self.padding_mode == 'zeros' and not isinstance(self.padding, str)
                and not self.weight.is_inference())

    def _laid_out(self, x: Tensor) -> tuple[Tensor, Optional[Tensor]]:
        """Weight and bias in the type of x; from the second x of a size on, in oneDNN's layout.

        Both give the same numbers: oneDNN chooses the layout that it would otherwise make for the
        call. Sizes that never come again would cost more than they spare.
        """
        key = x.shape, x.dtype, torch.get_num_threads()
        sizes = dict(self._kept)  # a copy: other threads may be computing as well
        known, kept = key in sizes, sizes.pop(key, None)
        if kept is None or not kept.is_of(self.weight, self.bias):
            weight, bias = (part if part is None else part.detach().to(x.dtype)
                            for part in (self.weight, self.bias))
            if known:
                weight = torch.ops.mkldnn._reorder_convolution_weight(
                    weight, self.padding, self.stride, self.dilation, self.groups, list(x.shape))
            kept = Kept((weight, bias), self.weight, self.bias)
        sizes[key] = kept if known else None  # the latest comes last
        if len(sizes) > KEPT_SIZES:
            del sizes[next(iter(sizes))]
        self._kept = sizes
        return kept.value


def _add_and_activate(y: Tensor, activation: Optional[str], out: Optional[Tensor]) -> Tensor:
    """Add the residual and apply the activation, in place, as separate operators."""
    y = y if out is None else out.add_(y)
    return y if activation is None else getattr(torch.ops.aten, f'{activation}_')(y)
