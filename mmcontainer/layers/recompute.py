"""Recomputing activations in the backward pass without touching the statistics of norms twice."""
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextmanager
def _statistics_untouched(module: nn.Module) -> Iterator[None]:
    """Let batch norms in training mode normalise as before but keep their running statistics."""
    norms = [m for m in module.modules()
             if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


def recompute(function: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module) -> Tensor:
    """Run ``function(x)`` without keeping what is inside; it runs again in the backward pass.

    Unlike with ``torch.utils.checkpoint`` alone, batch norms inside update their running statistics
    once per step.

    Args:
        function (Callable): What to run.
        x (Tensor): Its argument.
        module (nn.Module): Module that owns the norms that ``function`` uses.
    """
    return checkpoint(
        function, x, use_reentrant=False,
        context_fn=lambda: (nullcontext(), _statistics_untouched(module)))
