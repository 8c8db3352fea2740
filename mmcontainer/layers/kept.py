"""What inference computes from parameters and keeps while they stay the same."""
from typing import Any, Optional

from torch import Tensor


class Kept:
    """A value computed from parameters.

    They change where weights are loaded, written in place, replaced, converted or moved. PyTorch
    has no record of what is written through ``parameter.data`` or by fused optimizers: that goes
    unnoticed, so that whoever keeps a value drops it where gradients are on. Copies and pickles
    hold no value.

    Args:
        value: Whatever was computed; None is nothing.
        *parameters (Tensor | None): What it was computed from, no inference tensors, which have no
            version. They are held, for no other tensor to take their addresses.
    """

    def __init__(self, value: Any = None, *parameters: Optional[Tensor]):
        self.value = value
        self._parameters = [part if part is None else part.detach() for part in parameters]
        self._state = _state_of(parameters)

    def __reduce__(self):
        return Kept, ()

    def is_of(self, *parameters: Optional[Tensor]) -> bool:
        """Tell whether these are the parameters that it was computed from, unchanged."""
        return self._state == _state_of(parameters)


def _state_of(parameters: tuple[Optional[Tensor], ...]) -> list:
    return [part is not None and (part.data_ptr(), part._version) for part in parameters]
