"""Attention modulated by a Gaussian around a point of every query, without its L x N affinity.

The operator of SMCA-DETR (arXiv 2101.07448). The explicit twin is
:func:`mmcontainer.ops.gaussian_affinity`.

Shape legend: B batch, M heads, L queries, H and W size of the feature map, N = H * W keys, row by
row, D channels of a head, F features that are added to them.

How the Gaussian folds into the dot product
-------------------------------------------
Along an axis a key at coordinate g adds -w (p - g)^2 to the logits of a query with point p. This is
a dot product of (-w p^2, 2 w p, -w) with (1, g, g^2), so that a few more channels of query and key
give it to fused attention, which builds no mask. But the three terms are far larger than their sum
where it matters, near the point, and float32 loses what is left; more so in the gradients. The axis
is therefore cut into tiles, and each has coordinates f of its own around its centre c::

    -w (p - g)^2 = -w (p - c)^2 * 1 + 2 w (p - c) * f - w * f^2,    g = c + f

Query features are the factors that depend on p, the first two for every tile; key features are 1
and f in the channels of the key's own tile, 0 in those of the others, and f^2. Near the point all
terms then have the size of a tile. Fused attention returns gradients per feature, so that those of
point and scale come out summed around the centres of tiles, as exact as the logits.

Accuracy and limits
-------------------
In float32 the folded form is within 1e-4 of the output's and 1e-3 of every gradient's largest entry
for squared scales up to 16 on maps up to 120 x 140, and up to 100 on 25 x 42, the size at stride
32 (``python -m benchmarks.ops``; the error grows with scale^2 * tile^2, and the explicit form
loses digits there as well). Beyond that use 'separable'. The same holds where PyTorch may
multiply float32 in bfloat16, ``torch.set_float32_matmul_precision('medium')`` on a CPU: the other
forms then lose three digits and the folded one all. 'high' changes nothing on a CPU. On a CPU
PyTorch's fused attention knows no dropout: with dropout every form builds the affinity.
"""
from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..torch_compat import is_exporting
from .explicit import gaussian_affinity, padding_bias
from .precision import without_autocast

FORMS = ('auto', 'fold', 'separable', 'explicit')
# Along both axes together. With the squares and the padding that makes 15 features, so that heads
# of 32 channels get 48.
MAX_TILES = 6
# Fused attention on the CPU, and tensor cores, want the channels of a head in multiples of this.
CHANNEL_MULTIPLE = 8
# Entries B * M * L * N of the mask that the separable form holds at a time.
MASK_ELEMENTS = 2**23


def gaussian_attention(query: Tensor,
                       key: Tensor,
                       value: Tensor,
                       point: Tensor,
                       scale: Optional[Tensor],
                       grid_size: Sequence[int],
                       smooth: float = 8.,
                       key_padding_mask: Optional[Tensor] = None,
                       dropout_p: float = 0.,
                       form: str = 'auto') -> Tensor:
    """Attend with softmax(Q K^T / sqrt(D) + log-Gaussian around the point of the query).

    Everything is computed in float32 (float64 for float64), under autocast as well: the features
    of the folded form do not survive fewer bits.

    Args:
        query (Tensor): (B, M, L, D).
        key, value (Tensor): (B, M, N, D).
        point (Tensor): Points (B, M, L, 2) as (x, y) in cells of the feature map: the position in
            row r and column c is at x = c, y = r.
        scale (Tensor, optional): Scales before they are squared: (B, M, L, 2) for x and y, or
            (B, M, L, 3) with one for the product of both squared distances. Without it they are 1.
        grid_size (Sequence[int]): (H, W) of the feature map.
        smooth (float): Divisor of the exponent.
        key_padding_mask (Tensor, optional): (B, N) of bool, True where a key is padding. A sample
            whose keys are all padding is treated as if none was.
        dropout_p (float): Probability of dropping an attention weight. It applies whenever it is
            not 0; pass 0 for evaluation.
        form (str): 'fold' makes the Gaussian a part of the dot product; for up to two scales.
            'separable' adds a mask, some queries at a time. 'explicit' builds the affinity of every
            head. 'auto' is 'fold', 'separable' where there are three scales, and 'explicit' where
            ``torch.export`` records.

    Returns:
        Tensor: (B, M, L, D) in the type of ``value``.

    Raises:
        ValueError: If shapes do not fit together, the form is unknown, or it is 'fold' with three
            scales.
    """
    _check(query, key, value, point, scale, grid_size, key_padding_mask, form)
    if form == 'auto' and is_exporting():
        # Tiles and chunks of the others depend on the size, which a graph of any size leaves open.
        form = 'explicit'
    if form == 'auto':
        form = 'separable' if scale is not None and scale.shape[-1] == 3 else 'fold'
    attend = dict(fold=_folded, separable=_separable, explicit=_explicit)[form]
    dtype = torch.promote_types(query.dtype, torch.float32)
    tensors = [None if t is None else t.to(dtype) for t in (query, key, value, point, scale)]
    with without_autocast(query.device.type):
        out = attend(*tensors, tuple(grid_size), smooth, key_padding_mask, dropout_p)
    return out.to(value.dtype)


def _explicit(query, key, value, point, scale, grid_size, smooth, key_padding_mask, dropout_p):
    affinity = gaussian_affinity(query, key, point, scale, grid_size, smooth, key_padding_mask)
    return F.dropout(affinity, dropout_p) @ value


# ---------------------------------------------------------------------------------- folded form

def _folded(query, key, value, point, scale, grid_size, smooth, key_padding_mask, dropout_p):
    channels = query.shape[-1]
    query_parts, key_parts = [query / channels**0.5], [key]
    tile = _tile_size(grid_size)
    for axis in ('x', 'y'):
        of_query, of_key = _axis_features(axis, point, scale, grid_size, smooth, tile)
        query_parts.append(of_query)
        key_parts.append(of_key)
    if key_padding_mask is not None:
        query_parts.append(torch.ones_like(query[..., :1]))
        key_parts.append(padding_bias(key_padding_mask, key.dtype)[:, None, :, None])
    query, key = (_concatenate(parts) for parts in (query_parts, key_parts))
    # Fused attention wants as many channels in the values as in queries and keys.
    value = F.pad(value, (0, key.shape[-1] - channels))
    out = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p, scale=1.)
    return out[..., :channels]


def _tile_size(grid_size: Sequence[int]) -> int:
    """Edge of the square tiles of the folded form: the smallest that makes MAX_TILES at most."""
    tile = 1
    while sum(-(-size // tile) for size in grid_size) > MAX_TILES:
        tile += 1
    return tile


def _axis_features(axis: str, point: Tensor, scale: Optional[Tensor], grid_size: Sequence[int],
                   smooth: float, tile: int) -> tuple[Tensor, Tensor]:
    """Features of the queries (B, M, L, F) and keys (1, 1, N, F) for the Gaussian along an axis."""
    size = dict(y=grid_size[0], x=grid_size[1])[axis]
    cells = torch.arange(size, device=point.device)
    tiles = torch.arange(-(-size // tile), device=point.device)
    centres = (tiles * tile + (tile - 1) / 2).to(point.dtype)
    weight, point, nearest = _along(axis, point, scale, grid_size, smooth)
    of_query = torch.cat((_log_gaussian(weight, point, nearest, centres),
                          2 * weight * (point - centres), -weight.expand_as(point)), dim=-1)
    is_in_tile = (cells // tile)[:, None] == tiles
    offsets = cells[:, None] - centres
    within = torch.where(is_in_tile, offsets, 0)
    of_key = torch.cat((is_in_tile.to(point.dtype), within,
                        within.square().sum(-1, keepdim=True)), dim=-1)
    # Over the other axis keys do not differ.
    of_key = of_key[None] if axis == 'x' else of_key[:, None]
    return of_query, of_key.expand(*grid_size, -1).flatten(0, 1)[None, None]


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Channels of all parts, and zeros up to the next multiple; of one allocation."""
    batch, heads, tokens, _ = parts[0].shape
    padding = -sum(part.shape[-1] for part in parts) % CHANNEL_MULTIPLE
    parts = [*parts, parts[0].new_zeros(1, 1, 1, padding)]
    return torch.cat([part.expand(batch, heads, tokens, -1) for part in parts], dim=-1)


# ------------------------------------------------------------------------------- separable form

def _separable(query, key, value, point, scale, grid_size, smooth, key_padding_mask, dropout_p):
    batch, heads, queries, _ = query.shape
    step = max(1, MASK_ELEMENTS // max(1, batch * heads * key.shape[2]))
    chunks = [slice(start, start + step) for start in range(0, max(1, queries), step)]
    padding = None
    if key_padding_mask is not None:
        padding = padding_bias(key_padding_mask, query.dtype)[:, None, None]

    def attend(query, point, scale):
        mask = _separable_bias(point, scale, grid_size, smooth)
        mask = mask if padding is None else mask.add_(padding)
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p)

    def attend_again_in_backward(*args):
        return checkpoint(attend, *args, use_reentrant=False)

    # A mask with gradients is kept, and the weights with it: for every chunk, unless recomputed.
    recompute = len(chunks) > 1 and torch.is_grad_enabled()
    run = attend_again_in_backward if recompute else attend
    return torch.cat([run(query[:, :, chunk], point[:, :, chunk],
                          None if scale is None else scale[:, :, chunk]) for chunk in chunks], 2)


def _separable_bias(point: Tensor, scale: Optional[Tensor], grid_size: Sequence[int],
                    smooth: float) -> Tensor:
    """The mask of :func:`mmcontainer.ops.gaussian_bias`, made of its parts along x and y."""
    terms, squares = {}, {}
    for axis, size in zip('yx', grid_size):
        cells = torch.arange(size, device=point.device, dtype=point.dtype)
        weight, on_axis, nearest = _along(axis, point, scale, grid_size, smooth)
        terms[axis] = _log_gaussian(weight, on_axis, nearest, cells)
        squares[axis] = (on_axis - cells).square()
    bias = terms['y'][..., :, None] + terms['x'][..., None, :]
    if scale is not None and scale.shape[-1] == 3:
        of_y = -scale[..., 2:].square() / smooth * squares['y']
        bias.addcmul_(of_y[..., :, None], squares['x'][..., None, :])
    return bias.flatten(-2)


# ---------------------------------------------------------------------- the Gaussian along an axis

def _along(axis: str, point: Tensor, scale: Optional[Tensor], grid_size: Sequence[int],
           smooth: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weight w, point p and the place n in the grid nearest to it, (B, M, L, 1); w may be (1, )."""
    index = 'xy'.index(axis)
    point = point[..., index:index + 1]
    nearest = point.detach().clamp(0, grid_size[1 - index] - 1)
    if scale is None:
        return point.new_ones(1) / smooth, point, nearest
    return scale[..., index:index + 1].square() / smooth, point, nearest


def _log_gaussian(weight: Tensor, point: Tensor, nearest: Tensor, places: Tensor) -> Tensor:
    """-w (p - g)^2 + w (p - n)^2 at places g, as a product.

    The second term is the same for all keys and therefore drops out of the softmax and its
    gradients. Without it the logits of a point far outside the map would be huge and alike.
    """
    return -weight * (nearest - places) * (2 * point - nearest - places)


# ------------------------------------------------------------------------------------- arguments

def _check(query, key, value, point, scale, grid_size, key_padding_mask, form) -> None:
    if form not in FORMS:
        raise ValueError(f'form must be one of {", ".join(FORMS)}, found {form!r}.')
    if query.dim() != 4 or key.dim() != 4 or key.shape != value.shape or (
            query.shape[:2] + query.shape[3:] != key.shape[:2] + key.shape[3:]):
        raise ValueError(
            'gaussian_attention needs query (B, M, L, D) and key and value (B, M, N, D); found '
            f'{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}.')
    if key.shape[2] != grid_size[0] * grid_size[1]:
        raise ValueError(
            f'A map of {grid_size[0]} x {grid_size[1]} cells has {grid_size[0] * grid_size[1]} '
            f'keys, found {key.shape[2]}. grid_size is (H, W).')
    if point.shape != (*query.shape[:3], 2):
        raise ValueError(f'point must have shape {(*query.shape[:3], 2)}, one (x, y) per query and '
                         f'head; found {tuple(point.shape)}.')
    if scale is not None and (scale.shape[:-1] != query.shape[:3] or scale.shape[-1] not in (2, 3)):
        raise ValueError(f'scale must have shape {(*query.shape[:3], 2)}, or 3 in the last '
                         f'dimension; found {tuple(scale.shape)}. Expand one scale for x and y.')
    if form == 'fold' and scale is not None and scale.shape[-1] == 3:
        raise ValueError("With three scales the Gaussian does not fold into the dot product; use "
                         "form='separable' or 'auto'.")
    if key_padding_mask is not None and (key_padding_mask.dtype != torch.bool
                                         or key_padding_mask.shape != (key.shape[0], key.shape[2])):
        raise ValueError(
            f'key_padding_mask must be bool of shape {(key.shape[0], key.shape[2])}, found '
            f'{key_padding_mask.dtype} of shape {tuple(key_padding_mask.shape)}.')
