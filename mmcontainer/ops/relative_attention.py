"""Self-attention with a bias that depends on the offset between positions (CoAtNet, Swin).

Shape legend: B batch, M heads, H x W grid, N = H * W positions row by row, D channels of a head.

A table (M, 2H - 1, 2W - 1) holds the bias w of every offset, w[i - j] for query i and key j. The
matrix of biases (M, N, N) repeats the table N times: it is Toeplitz in rows and columns. With the
order of keys reversed, the biases of one row of queries are a *view* of the table unrolled along
columns alone::

    U[m, qx, r, kx] = T[m, r, qx + kx]        bias[m, (qy, qx), (ky, kx)] = U[m, qx, qy + ky, kx]

(ky, kx counted from the end), which holds M * W * (2H - 1) * W numbers in place of M * (H * W)^2.
"""
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..torch_compat import is_exporting
from .autograd import plain_gradients
from .capture import is_transformed
from .explicit import relative_bias
from .fused_attention import fused_attention
from .precision import without_autocast

FORMS = ('auto', 'dense', 'toeplitz')
# Largest matrix of biases, in entries, that 'auto' builds: beyond it, memory costs more time.
DENSE_ENTRIES = 2**22


def relative_attention(query: Tensor,
                       key: Tensor,
                       value: Tensor,
                       table: Tensor,
                       grid_size: Sequence[int],
                       form: str = 'auto') -> Tensor:
    """Attend with softmax(Q K^T / sqrt(D) + w_{i-j}) V.

    Args:
        query, key, value (Tensor): (B, M, N, D).
        table (Tensor): (M, 2H - 1, 2W - 1), see :func:`relative_bias`.
        grid_size (Sequence[int]): (H, W).
        form (str): 'dense' builds the matrix of biases; 'toeplitz' never does, in either pass
            (measured on CPUs), but for gradients that are differentiated again. 'auto' chooses by
            size; under ``torch.func`` it is 'dense', in exported models the explicit form.

    Returns:
        Tensor: (B, M, N, D).

    Raises:
        ValueError: Unknown form, or shapes that do not fit together.

    Source: arXiv 2106.04803, equation (3), the form before normalisation.
    """
    height, width = grid_size
    if form not in FORMS:
        raise ValueError(f'form must be one of {", ".join(FORMS)}, got {form!r}.')
    table = table.to(query.dtype)
    if form == 'auto' and (torch.jit.is_tracing() or is_exporting()):
        # Sizes are unknown: neither can they be checked, nor can one form suit all.
        return biased_attention(query, key, value, relative_bias(table, grid_size))
    if form == 'auto':
        small = len(table) * (height * width)**2 <= DENSE_ENTRIES
        form = 'dense' if small or is_transformed() or not len(query) else 'toeplitz'
    _check(query, table, height, width)
    if form == 'dense':
        return _dense(query, key, value, table, height, width)
    return _ToeplitzAttention.apply(query, key, value, table, height, width)


def _dense(query: Tensor, key: Tensor, value: Tensor, table: Tensor, height: int,
           width: int) -> Tensor:
    return biased_attention(query, key, value, relative_bias(table, (height, width))[None])


def biased_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend with softmax(Q K^T / sqrt(D) + bias) V.

    Args:
        query, key, value (Tensor): (B, M, N, D).
        bias (Tensor): Broadcastable to (B, M, N, N); -inf where a query must not attend to a key.

    Returns:
        Tensor: (B, M, N, D).
    """
    if torch.jit.is_tracing() or is_exporting():
        # Exporters (torch 2.12) cannot reshape what fused attention with a bias returns.
        logits = query @ key.transpose(-2, -1) / query.shape[-1]**0.5
        return (logits + bias).softmax(dim=-1) @ value
    return fused_attention(query, key, value, bias)


def _check(query: Tensor, table: Tensor, height: int, width: int) -> None:
    expected = (query.shape[1], 2 * height - 1, 2 * width - 1)
    if tuple(table.shape) != expected or query.shape[2] != height * width:
        raise ValueError(
            f'A grid of {height} x {width} positions with {query.shape[1]} heads needs queries of '
            f'{height * width} positions and a table {expected}, got {query.shape[2]} and '
            f'{tuple(table.shape)}.')


def _row_biases(table: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Unrolled table U (M, W, 2H - 1, W), and its view (H, M, W, N): per row of queries."""
    unrolled = table.unfold(2, width, 1).transpose(1, 2).contiguous()
    rows = 2 * height - 1
    biases = unrolled.as_strided(
        (height, table.shape[0], width, height * width),
        (width, width * rows * width, rows * width, 1))
    return unrolled, biases


class _ToeplitzAttention(torch.autograd.Function):
    """Rows of queries are the batch of fused attention; all attend to the same keys."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, table: Tensor, height: int,
                width: int) -> Tensor:
        biases = _row_biases(table, height, width)[1]
        outs = []
        for q, k, v in zip(query, key.flip(2), value.flip(2)):
            rows = q.unflatten(1, (height, width)).transpose(0, 1)
            shared = (height, *k.shape)
            out = F.scaled_dot_product_attention(rows, k.expand(shared), v.expand(shared), biases)
            outs.append(out.transpose(0, 1).flatten(1, 2))
        out = torch.stack(outs)
        ctx.save_for_backward(query, key, value, table, out)
        ctx.grid_size = height, width
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        height, width = ctx.grid_size
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            found = plain_gradients(partial(_dense, height=height, width=width), saved[:4],
                                    ctx.needs_input_grad, grad)
            return *found, None, None
        with without_autocast(grad.device.type):
            return (*_gradients(saved, grad, height, width), None, None)


def _gradients(saved: Sequence[Tensor], grad: Tensor, height: int, width: int) -> list[Tensor]:
    """Gradients of query, key, value and table, row by row."""
    # Half precision would lose the sums over thousands of positions.
    dtype = torch.promote_types(grad.dtype, torch.float32)
    query, key, value, table, out, grad = (t.to(dtype) for t in (*saved, grad))
    unrolled, biases = _row_biases(table, height, width)
    to_unrolled = torch.zeros_like(unrolled)
    to_query, to_key, to_value = (torch.zeros_like(t) for t in (query, key, value))
    key, value = key.flip(2), value.flip(2)
    for image in range(len(query)):
        for row in range(height):
            here = slice(row * width, (row + 1) * width)
            _add_row_gradients(
                *(t[image, :, here] for t in (query, out, grad)), key[image], value[image],
                biases[row], to_query[image, :, here], to_key[image], to_value[image],
                to_unrolled[:, :, row:row + height])
    to_table = torch.zeros_like(table)
    for column in range(width):
        to_table[:, :, column:column + width] += to_unrolled[:, column]
    gradients = to_query, to_key.flip(2), to_value.flip(2), to_table
    return [g.to(t.dtype) for g, t in zip(gradients, saved)]


def _add_row_gradients(query: Tensor, out: Tensor, grad: Tensor, key: Tensor, value: Tensor,
                       biases: Tensor, to_query: Tensor, to_key: Tensor, to_value: Tensor,
                       to_unrolled: Tensor) -> None:
    """Add the gradients of a row of queries (M, W, D), whose weights (M, W, N) are built again."""
    scale = query.shape[-1]**-0.5
    query = query * scale
    weights = torch.baddbmm(biases, query, key.transpose(1, 2)).softmax(dim=-1)
    to_value.baddbmm_(weights.transpose(1, 2), grad)
    to_weights = torch.bmm(grad, value.transpose(1, 2))
    to_logits = weights.mul_(to_weights.sub_((grad * out).sum(-1, keepdim=True)))
    to_query.copy_(torch.bmm(to_logits, key).mul_(scale))
    to_key.baddbmm_(to_logits.transpose(1, 2), query)
    to_unrolled.add_(to_logits.view(to_unrolled.shape))
