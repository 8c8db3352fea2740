"""Autocast: switching it off where it must not round, and the type that it rounds to."""
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..torch_compat import autocast_dtype


def without_autocast(device_type: str) -> AbstractContextManager:
    """Context in which autocast is off; also on 'meta', a device that autocast does not know."""
    return nullcontext() if device_type == 'meta' else torch.autocast(device_type, enabled=False)


def computing_dtype(x: Tensor) -> torch.dtype:
    """Type in which a convolution of ``x`` computes: autocast's if it is on, else that of ``x``."""
    dtype = autocast_dtype(x.device.type)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype
