"""The size of the largest tensor that a computation makes, whatever hides it."""
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """Context in which ``largest`` is the number of elements of the largest result so far.

    An expanded or otherwise overlapping view counts as what lies in memory.
    """
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, (tuple, list)) else (out, ):
            if isinstance(item, torch.Tensor) and not item.is_mkldnn:  # which has no storage
                stored = item.untyped_storage().nbytes() // item.element_size()
                self.largest = max(self.largest, min(item.numel(), stored))
        return out
