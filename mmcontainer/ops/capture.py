"""Recording and transforming of operators, told apart from running them."""
import torch

from ..torch_compat import is_compiling


def is_transformed() -> bool:
    """Tell whether ``torch.func`` runs, which has rules for plain operators alone."""
    # Asked second: torch.compile cannot record the question.
    return not is_compiling() and torch._C._are_functorch_transforms_active()


def is_captured() -> bool:
    """Tell whether ``torch.jit.trace``, an ONNX export or ``torch.compile`` records the operators.

    They get plain forms, and choose memory formats and fusions themselves. So does ``torch.func``.
    """
    return torch.jit.is_tracing() or is_compiling() or is_transformed()
