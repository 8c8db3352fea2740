"""PyTorch's fused attention, without the case in which it is slow."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import has_own_backward
from .precision import computing_dtype, without_autocast

# Trained on a CPU with AMX, on one thread, float32 was 10 times as fast as bfloat16 for
# 16 positions, 1.5 times for 256, and as fast for 1024; there it was slower on two threads. On an
# AMD EPYC with AVX512_BF16 it was 3 times as fast for 16 and 65 positions, and 0.9 times for 256.
_MOST_AFFINITIES = 512**2


def fused_attention(query: Tensor,
                    key: Tensor,
                    value: Tensor,
                    bias: Optional[Tensor] = None,
                    dropout_p: float = 0.) -> Tensor:
    """Attend with softmax(Q K^T / sqrt(D) + bias) V, by ``F.scaled_dot_product_attention``.

    Where that trains on a CPU in bfloat16, itself or by autocast, and positions are few, it
    computes in float32.

    Args:
        query (Tensor): (B, M, L, D).
        key, value (Tensor): (B, M, N, D).
        bias (Tensor, optional): Broadcastable to (B, M, L, N); -inf where a query must not attend
            to a key.
        dropout_p (float): Probability that an affinity is dropped.

    Returns:
        Tensor: (B, M, L, D).
    """
    dtype = computing_dtype(query)
    if not (dtype == torch.bfloat16 and has_own_backward(query)
            and query.shape[-2] * key.shape[-2] <= _MOST_AFFINITIES):
        return F.scaled_dot_product_attention(query, key, value, bias, dropout_p)
    with without_autocast('cpu'):
        tensors = (None if t is None else t.float() for t in (query, key, value, bias))
        return F.scaled_dot_product_attention(*tensors, dropout_p).to(dtype)
