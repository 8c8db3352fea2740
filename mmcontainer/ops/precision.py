"""Where autocast must not round."""
from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device_type: str) -> AbstractContextManager:
    """Context in which autocast is off; also on 'meta', a device that autocast does not know."""
    return nullcontext() if device_type == 'meta' else torch.autocast(device_type, enabled=False)
