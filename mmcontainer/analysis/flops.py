"""Counting multiply-adds, attention included.

The unit is that of the papers' tables and of MMDetection 2's ``get_flops.py``: one multiply-add of
a convolution, linear layer or matrix product is one "FLOP", a norm costs 2 per element (batch norm
in evaluation) or 5 (layer and group norm); activations, pooling, resizing and RoIAlign cost
nothing.
"""
import copy
import inspect
import math
from collections.abc import Iterable, Sequence
from typing import Callable, NamedTuple, Union

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mmcontainer.ops  # noqa: F401  registers torch.ops.mmcontainer

aten = torch.ops.aten
# MMDetection 2's way: the box head sees 1000 proposals, the mask head the first 100 of them.
NUM_PROPOSALS = 1000
NUM_MASKS = 100


class FlopCount(NamedTuple):
    """The cost of a forward pass.

    Attributes:
        flops (float): Multiply-adds.
        parameters (int): Number of weights, frozen ones included.
        trainable_parameters (int): Number of weights that are trained. This is what MMDetection 2's
            tool, and with it the detection tables of the papers, call parameters.
        parts (dict[str, float]): Multiply-adds by part of the model.
        notes (tuple[str]): What the numbers include, where that is a matter of convention.
    """
    flops: float
    parameters: int
    trainable_parameters: int
    parts: dict[str, float]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f'FLOPs: {self.flops / 1e9:.1f} G  Params: {self.trainable_parameters / 1e6:.1f} M'


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *args,
               **kwargs) -> int:
    """q k^T and (softmax) v, for shapes (B, heads, N, d)."""
    *batch, num_queries, dim = query
    return 2 * math.prod(batch) * num_queries * key[-2] * (dim + value[-1])


def _per_element(multiply_adds: int) -> Callable:
    def formula(shape: Sequence[int], *args, **kwargs) -> int:
        return 2 * multiply_adds * math.prod(shape)

    return formula


def _grid_sample(shape: Sequence[int], grid: Sequence[int], *args, **kwargs) -> int:
    """Bilinear sampling: four neighbours for every sampled value."""
    return 2 * 4 * shape[0] * shape[1] * math.prod(grid[1:-1])


def _local_aggregation(x: Sequence[int], weight: Sequence[int], *args, **kwargs) -> int:
    """One multiply-add per tap, for every head (B, heads, G, taps, H, W) and value of x."""
    return 2 * math.prod(x) * weight[1] * weight[3]


def _pointwise(x: Sequence[int], weight: Sequence[int], *args, **kwargs) -> int:
    """A 1x1 convolution, or a matrix product, that oneDNN fuses with what follows it."""
    return 2 * math.prod(x) * weight[0]


def _pointwise_into(out: Sequence[int], *args, **kwargs) -> int:
    """The same operator in place: the map that it adds to is the first argument."""
    return _pointwise(*args)


# {operator: formula of the shapes of its arguments}, in PyTorch's unit of two per multiply-add.
# Extends torch.utils.flop_counter, which knows convolutions, matrix products and attention on a
# GPU. An operator of your own is added here; without an entry it counts nothing.
FORMULAS: dict[object, Callable] = {
    aten.native_batch_norm: _per_element(2),
    aten._native_batch_norm_legit_no_training: _per_element(2),
    aten.cudnn_batch_norm: _per_element(2),
    aten.native_layer_norm: _per_element(5),
    aten.native_group_norm: _per_element(5),
    aten.grid_sampler_2d: _grid_sample,
    torch.ops.mmcontainer.local_aggregation: _local_aggregation,
}
# Each PyTorch has some of them, and counts some of those itself.
for _kind in ('flash_attention', 'efficient_attention', 'cudnn_attention',
              'flash_attention_for_cpu', 'fused_attention_overrideable'):
    if hasattr(aten, f'_scaled_dot_product_{_kind}'):
        FORMULAS[getattr(aten, f'_scaled_dot_product_{_kind}')] = _attention
if torch.backends.mkldnn.is_available():
    FORMULAS[torch.ops.mkldnn._convolution_pointwise] = _pointwise
    FORMULAS[torch.ops.mkldnn._convolution_pointwise_] = _pointwise_into
    FORMULAS[torch.ops.mkldnn._linear_pointwise] = _pointwise


class _Share:
    """Multiply-adds in the calls of one module."""

    def __init__(self, module: nn.Module, counter: FlopCounterMode):
        self.flops, self._before, self._counter = 0., 0., counter
        module.register_forward_pre_hook(self._enter)
        module.register_forward_hook(self._leave)

    def _enter(self, *_: object) -> None:
        self._before = self._counter.get_total_flops() / 2

    def _leave(self, *_: object) -> None:
        self.flops += self._counter.get_total_flops() / 2 - self._before


def _count(function: Callable, *args,
           children: Iterable[tuple[str, nn.Module]] = ()) -> tuple[float, object, dict]:
    """Multiply-adds of a call, its result, and multiply-adds by child module."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        shares = {name: _Share(child, counter) for name, child in children}
        result = function(*args)
    parts = {name: share.flops for name, share in shares.items() if share.flops}
    return counter.get_total_flops() / 2, result, parts


def _count_plain(model: nn.Module, image: Tensor) -> dict[str, float]:
    """Count a model in one call: a backbone, classifier, one-stage detector or DETR."""
    parameters = inspect.signature(model.forward).parameters
    kwargs = {'mode': 'tensor'} if 'mode' in parameters else {}
    if 'data_samples' in parameters:
        size = tuple(image.shape[-2:])
        kwargs['data_samples'] = [BaseDataElement(metainfo=dict(
            img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size,
            scale_factor=(1., 1.)))]
    total, _, parts = _count(lambda: model(image, **kwargs), children=model.named_children())
    rest = total - sum(parts.values())
    return {**parts, **({'rest': rest} if rest else {})}


def _as_list(modules) -> list:
    if modules is None:
        return []
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def _count_two_stage(model: nn.Module, image: Tensor) -> dict[str, float]:
    """Backbone, neck and RPN on the image; box and mask heads on a fixed number of proposals.

    The heads get RoI features of the right shape directly: which proposals an untrained RPN keeps
    is a matter of chance, and RoIAlign itself counts nothing.
    """
    parts = {}
    parts['backbone'], features, _ = _count(model.backbone, image)
    if model.with_neck:
        parts['neck'], features, _ = _count(model.neck, features)
    parts['rpn_head'] = _count(model.rpn_head, features)[0]
    for name, number in (('bbox', NUM_PROPOSALS), ('mask', NUM_MASKS)):
        heads = _as_list(getattr(model.roi_head, f'{name}_head', None))
        extractor = getattr(model.roi_head, f'{name}_roi_extractor', None)
        if not heads:
            continue
        if extractor is None:  # the mask head shares the box head's extractor
            extractor = model.roi_head.bbox_roi_extractor
        extractor = _as_list(extractor)[0]
        rois = image.new_empty(
            number, extractor.out_channels, *extractor.roi_layers[0].output_size)
        parts[f'{name}_head'] = sum(_count(head, rois)[0] for head in heads)
    return parts


def count_flops(model: nn.Module, inputs: Union[Tensor, Sequence[int]]) -> FlopCount:
    """Count the multiply-adds of one forward pass in evaluation mode, up to the raw predictions.

    The model is not run: shapes alone are propagated (on the ``meta`` device), which takes no
    memory and a second. Where a model needs values to find its shapes, it runs on the CPU.

    Args:
        model (nn.Module): Backbone, classifier or detector; it is left as it is.
        inputs (Tensor | Sequence[int]): Images (B, C, H, W), or that shape. Values do not matter.

    Returns:
        FlopCount: Multiply-adds, parameters, and how they are shared among the model's parts.
    """
    shape = tuple(inputs.shape if isinstance(inputs, Tensor) else inputs)
    two_stage = hasattr(model, 'roi_head') and hasattr(model, 'rpn_head')
    count = _count_two_stage if two_stage else _count_plain
    copied = revert_sync_batchnorm(copy.deepcopy(model))
    copied.requires_grad_(False).eval()  # which returns nothing for MMDetection's Swin
    notes = []
    try:
        parts = count(copied.to('meta'), torch.empty(shape, device='meta'))
    except (NotImplementedError, RuntimeError) as error:
        notes.append('ran on the CPU, because shapes alone do not suffice '
                     f'({str(error).splitlines()[0]})')
        copied = revert_sync_batchnorm(copy.deepcopy(model)).to('cpu')
        copied.requires_grad_(False).eval()
        parts = count(copied, torch.zeros(shape))
    if two_stage:
        heads = f'box head on {NUM_PROPOSALS} proposals'
        if 'mask_head' in parts:
            heads += f', mask head on {NUM_MASKS} of them'
        notes.append(f'{heads} (the convention of MMDetection 2)')
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trainable != parameters:
        notes.append(f'{parameters / 1e6:.2f} M parameters, {trainable / 1e6:.2f} M trained')
    return FlopCount(sum(parts.values()), parameters, trainable, parts, tuple(notes))
