"""Numbers of the SMCA figures: where a query looks, before and after its Gaussian modulates it."""
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional, Union

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from ..errors import UserError
from ..ops import gaussian_affinity, gaussian_bias
from .network_input import NetworkInput


class QueryAttention(NamedTuple):
    """Cross-attention of P queries in one decoder layer, as maps over its h x w cells.

    Of a multi-scale SMCA-DETR there is one for each group of keys.

    Places are (x, y) in pixels of the network's input.

    Attributes:
        layer (int): Number of the decoder layer.
        head (str): 'mean over 8 heads' or 'head 3'.
        group (str): The group of keys, 'stride 16' for example; '' if there is only one.
        weights (np.ndarray): What the query multiplies the group's attention with (P, ); the
            weights of all groups sum to 1.
        queries (np.ndarray): Numbers (P, ).
        labels, scores (np.ndarray): Best class (P, ) of every query and its score.
        boxes (np.ndarray): (P, 4), (x1, y1, x2, y2).
        references (np.ndarray): Reference points (P, 2).
        points (np.ndarray): Centres of the heads' Gaussians (P, K, 2), K heads. A Gaussian is
            centred at whole numbers on the *middle* of a cell, so they lie half a cell to the right
            of and below where the same numbers would put a reference point.
        cell_size (tuple[float, float]): Width and height of a cell in pixels.
        before, gaussian, after (np.ndarray): (P, h, w): softmax without the Gaussian, the Gaussian
            itself (1 at its centre), softmax with it. Means of the chosen heads.
    """
    layer: int
    head: str
    group: str
    weights: np.ndarray
    queries: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    references: np.ndarray
    points: np.ndarray
    cell_size: tuple[float, float]
    before: np.ndarray
    gaussian: np.ndarray
    after: np.ndarray


def check_choice(model: nn.Module, layer: Optional[int], head: Union[int, str],
                 queries: Optional[Sequence[int]]) -> int:
    """Check numbers of the command line; returns the layer, the last one without a choice.

    Raises:
        UserError: If the model is no SMCA-DETR, or a number is out of range.
    """
    layers = getattr(getattr(model, 'decoder', None), 'layers', [])
    if not layers or not hasattr(layers[0], 'locate'):
        raise UserError(f'--query is for SMCA-DETR; {type(model).__name__} has no decoder whose '
                        'queries look around a point.')
    heads = layers[0].cross_attn.num_heads
    layer = len(layers) - 1 if layer is None else layer
    for name, value, number in (('layer', layer, len(layers)), ('head', head, heads),
                                *(('query', query, model.num_queries) for query in queries or [])):
        if value != 'mean' and not 0 <= value < number:
            raise UserError(f'--{name} {value}: the decoder has 0 to {number - 1}.')
    return layer


@torch.no_grad()
def collect_layers(model: nn.Module, image: NetworkInput, layers: Sequence[int],
                   head: Union[int, str] = 'mean', queries: Optional[Sequence[int]] = None,
                   number: int = 3,
                   features: Optional[tuple[Tensor]] = None) -> list[QueryAttention]:
    """Run a detector once and build the wanted rows of explicit cross-attention.

    There is one result for each layer and group of keys; a single-scale SMCA-DETR has one group.

    Args:
        model (SMCADETR): Or its multi-scale form, in evaluation mode, on the device of the image.
        image (NetworkInput): The image.
        layers (Sequence[int]): Of the decoder.
        head (int | str): Number of a head, or 'mean'.
        queries (Sequence[int], optional): Their numbers; those with the best scores without it.
        number (int): How many then.
        features (tuple[Tensor], optional): What ``model.extract_feat`` gives for the image; only
            the rest runs then.
    """
    height, width = image.inputs.shape[-2:]
    shown = image.picture.shape[:2]
    sample = DetDataSample(metainfo=dict(
        img_shape=shown, ori_shape=shown, batch_input_shape=(height, width)))
    seen = {}
    handles = [model.decoder.layers[layer].cross_attn.register_forward_pre_hook(
        lambda module, args, layer=layer: seen.update({layer: args})) for layer in layers]
    handles.append(model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True))
    try:
        if features is None:
            features = model.extract_feat(image.inputs)
        outputs = model.forward_transformer(features, [sample])
    finally:
        for handle in handles:
            handle.remove()
    logits, boxes = (out[-1, 0] for out in model.bbox_head(**outputs))
    scores, labels = logits.sigmoid().max(dim=-1)
    chosen = torch.tensor(queries, device=scores.device) if queries else scores.topk(
        min(number, len(scores))).indices
    pixels = scores.new_tensor([shown[1], shown[0]])
    predicted = [array.cpu().numpy() for array in (
        chosen, labels[chosen], scores[chosen],
        bbox_cxcywh_to_xyxy(boxes[chosen]) * pixels.repeat(2),
        outputs['references'][0, chosen].sigmoid() * pixels)]
    heads = slice(None) if head == 'mean' else slice(head, head + 1)
    # The decoder places points in cells of a fixed stride. The size of a map does not tell it, as
    # backbones round that up or down.
    cell_sizes = pixels / seen['cells'].view(-1, 2)
    found = []
    for layer in layers:
        for (name, weights, points, maps), cell_size in zip(_groups(
                model.decoder.layers[layer].cross_attn, seen[layer], chosen), cell_sizes):
            maps = [m[:, heads].mean(dim=1) for m in maps]
            points = (points[:, heads] + 0.5) * cell_size
            which = f'mean over {points.shape[1]} heads' if head == 'mean' else f'head {head}'
            found.append(QueryAttention(
                layer, which, name, weights.cpu().numpy(), *predicted, points.cpu().numpy(),
                tuple(cell_size.tolist()), *(m.cpu().numpy() for m in maps)))
    return found


def _groups(attention: nn.Module, args: tuple,
            chosen: Tensor) -> Iterator[tuple[str, Tensor, Tensor, list[Tensor]]]:
    """Name, weights (P, ), points (P, M, 2) and maps (P, M, h, w) of every group of keys.

    The maps are those of :class:`QueryAttention`, of chosen queries of the first image.
    """
    query, key, value, query_pos, key_pos, padding, *place = args
    query, key, _ = attention.project((query + query_pos)[:, chosen], key + key_pos, value)
    for name, weight, group in attention.groups(key, padding, *place):
        key_, point, scale, grid_size, smooth, mask = group
        point, scale = (t if t is None else t[:, :, chosen] for t in (point, scale))
        before = gaussian_affinity(query, key_, point, scale, grid_size, float('inf'), mask)
        after = gaussian_affinity(query, key_, point, scale, grid_size, smooth, mask)
        gaussian = gaussian_bias(point, scale, grid_size, smooth).exp()
        maps = [m[0].transpose(0, 1).unflatten(-1, tuple(grid_size))
                for m in (before, gaussian, after)]
        yield name, weight[0, chosen], point[0].transpose(0, 1), maps
