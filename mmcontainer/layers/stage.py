"""A row of blocks whose activations can be recomputed in the backward pass."""
from contextlib import nullcontext

from mmengine.model import Sequential
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..torch_compat import is_compiling


class _StatisticsUntouched:
    """Lets batch norms in training mode normalise as before but keep their running statistics.

    Before PyTorch 2.6, recomputation enters the same context once for every part that asks for it.
    """

    def __init__(self, module: nn.Module):
        self.norms = [m for m in module.modules()
                      if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]

    def __enter__(self) -> None:
        self.before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, count) in zip(self.norms, self.before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


def recompute(module: nn.Module, x: Tensor, *args) -> Tensor:
    """``module(x, *args)`` without keeping what is inside; it runs again in the backward pass.

    Unlike with ``torch.utils.checkpoint`` alone, batch norms update their running statistics once
    per step. Where ``x`` needs no gradient, as behind frozen stages, the module is just called.
    """
    if not x.requires_grad:
        return module(x, *args)
    # Compiled code updates statistics once by itself, and torch.compile cannot trace a context.
    context = {} if is_compiling() else dict(
        context_fn=lambda: (nullcontext(), _StatisticsUntouched(module)))
    return checkpoint(module, x, *args, use_reentrant=False, **context)


class Stage(Sequential):
    """Blocks one after the other.

    Args:
        *blocks (nn.Module): Each maps its input, and further arguments of ``forward`` that all of
            them get, to an output of the same kind.
        with_cp (bool): Recompute every block in the backward pass instead of keeping what is inside
            of it: less memory, more time, the same gradients and statistics.
    """

    def __init__(self, *blocks: nn.Module, with_cp: bool = False):
        super().__init__(*blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor, *args) -> Tensor:
        for block in self:
            x = recompute(block, x, *args) if self.with_cp else block(x, *args)
        return x
