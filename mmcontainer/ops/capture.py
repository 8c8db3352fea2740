"""Recording of operators, by exports and compilers, told apart from running them."""
import torch

from ..torch_compat import is_compiling


def is_captured() -> bool:
    """Tell whether ``torch.jit.trace``, an ONNX export or ``torch.compile`` records the operators.

    They get plain forms, and choose memory formats and fusions themselves.
    """
    return torch.jit.is_tracing() or is_compiling()
