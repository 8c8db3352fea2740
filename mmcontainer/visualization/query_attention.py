"""Numbers of the SMCA figures: where a query looks, before and after its Gaussian modulates it."""
from collections.abc import Sequence
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

    Places are (x, y) in pixels of the network's input.

    Attributes:
        layer (int): Number of the decoder layer.
        head (str): 'mean over 8 heads' or 'head 3'.
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


def collect_queries(model: nn.Module, image: NetworkInput, layer: int,
                    head: Union[int, str] = 'mean', queries: Optional[Sequence[int]] = None,
                    number: int = 3) -> QueryAttention:
    """Run a detector once and build the wanted rows of one layer's explicit cross-attention.

    Args:
        model (SMCADETR): In evaluation mode, on the device of the image.
        image (NetworkInput): The image.
        layer (int): Decoder layer.
        head (int | str): Number of a head, or 'mean'.
        queries (Sequence[int], optional): Their numbers; those with the best scores without it.
        number (int): How many then.
    """
    return collect_layers(model, image, [layer], head, queries, number)[0]


@torch.no_grad()
def collect_layers(model: nn.Module, image: NetworkInput, layers: Sequence[int],
                   head: Union[int, str] = 'mean', queries: Optional[Sequence[int]] = None,
                   number: int = 3,
                   features: Optional[tuple[Tensor]] = None) -> list[QueryAttention]:
    """Do what :func:`collect_queries` does for several layers, and run the detector once.

    With ``features``, which ``model.extract_feat`` gives for the image, only the rest runs.
    """
    height, width = image.inputs.shape[-2:]
    shown = image.picture.shape[:2]
    sample = DetDataSample(metainfo=dict(
        img_shape=shown, ori_shape=shown, batch_input_shape=(height, width)))
    seen = {}
    handles = [model.decoder.layers[layer].cross_attn.register_forward_pre_hook(
        lambda module, args, layer=layer: seen.update({layer: args})) for layer in layers]
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
    found = []
    for layer in layers:
        maps, points, grid_size = _modulated(model.decoder.layers[layer].cross_attn, seen[layer],
                                             chosen)
        maps = [m[:, heads].mean(dim=1).unflatten(-1, grid_size) for m in maps]
        cell_size = scores.new_tensor([width / grid_size[1], height / grid_size[0]])
        points = (points[:, heads] + 0.5) * cell_size
        name = f'mean over {points.shape[1]} heads' if head == 'mean' else f'head {head}'
        found.append(QueryAttention(
            layer, name, *predicted, points.cpu().numpy(), tuple(cell_size.tolist()),
            *(m.cpu().numpy() for m in maps)))
    return found


def _modulated(attention: nn.Module, args: tuple,
               chosen: Tensor) -> tuple[list[Tensor], Tensor, tuple[int, int]]:
    """Three maps (P, M, N) and points (P, M, 2) of chosen queries of the first image."""
    query, key, value, query_pos, key_pos, padding, point, scale, grid_size = args
    query, key, _ = attention.project((query + query_pos)[:, chosen], key + key_pos, value)
    point, scale = (t if t is None else t[:, :, chosen] for t in (point, scale))
    before = gaussian_affinity(query, key, point, scale, grid_size, float('inf'), padding)
    after = gaussian_affinity(query, key, point, scale, grid_size, attention.smooth, padding)
    gaussian = gaussian_bias(point, scale, grid_size, attention.smooth).exp()
    return ([m[0].transpose(0, 1) for m in (before, gaussian, after)], point[0].transpose(0, 1),
            tuple(grid_size))
