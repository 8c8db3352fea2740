"""What operators with a backward pass of their own have in common."""
from collections.abc import Callable, Sequence
from typing import Optional

import torch
from torch import Tensor

from .capture import is_captured


def has_own_backward(x: Tensor) -> bool:
    """Tell whether to use a backward pass made for CPUs: in training there.

    ``torch.func``, compilers and exports get plain operators.
    """
    return x.device.type == 'cpu' and torch.is_grad_enabled() and not is_captured()


def needs_deterministic_gradient() -> bool:
    """Tell whether PyTorch refuses gradients that a GPU adds up in any order.

    Those are, among others, of ``F.interpolate`` and of padding by reflection.
    """
    return torch.is_grad_enabled() and torch.are_deterministic_algorithms_enabled()


def plain_gradients(function: Callable, inputs: Sequence[Optional[Tensor]], needed: Sequence[bool],
                    grad: Tensor) -> tuple[Optional[Tensor], ...]:
    """Gradients that can be differentiated again.

    Args:
        function (Callable): What is differentiated, in plain operators.
        inputs (Sequence[Tensor | None]): Its arguments.
        needed (Sequence[bool]): Whether each of them needs a gradient.
        grad (Tensor): Gradient of the result.

    Returns:
        tuple[Tensor | None]: One for each input, None where none is needed.
    """
    # One input may depend on another, or be the same tensor: gradients of these views are of their
    # own places alone, and autograd adds up the rest.
    own = [part if part is None else part.view_as(part) for part in inputs]
    wanted = [part for part, is_needed in zip(own, needed) if is_needed]
    found = iter(torch.autograd.grad(function(*own), wanted, grad, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)
