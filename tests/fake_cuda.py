"""CUDA without a GPU: tensors that have a device, a type and a shape, but no values.

PyTorch checks for such tensors, too, that all inputs of an operator are on one device. So a tensor
that a model makes on the CPU, whatever the device of its input, is found on any machine.
"""
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


def to_fake_cuda(module):
    """Put fake tensors on 'cuda' in the place of all parameters and buffers, inside of the mode.

    Parameters that modules share stay shared.

    Args:
        module (nn.Module): On any device, 'meta' included; changed in place.

    Returns:
        nn.Module: The same.
    """
    fakes = {}

    def fake(tensor):
        if id(tensor) not in fakes:
            found = torch.empty(tensor.shape, dtype=tensor.dtype, device='cuda')
            if isinstance(tensor, nn.Parameter):
                found = nn.Parameter(found, requires_grad=tensor.requires_grad)
            fakes[id(tensor)] = tensor, found  # the first keeps its id from being used again
        return fakes[id(tensor)][1]

    for part in module.modules():
        for registered in (part._parameters, part._buffers):
            for name, tensor in registered.items():
                if tensor is not None:
                    registered[name] = fake(tensor)
    return module


@contextmanager
def fake_cuda(autocast=None):
    """Context in which no tensor has values, and tensors on 'cuda' exist.

    Args:
        autocast (torch.dtype, optional): Type of autocast for CUDA. ``torch.autocast`` itself stays
            off where there is no GPU.
    """
    before = torch.is_autocast_enabled('cuda'), torch.get_autocast_dtype('cuda')
    with FakeTensorMode() as mode:
        mode.__deepcopy__ = lambda memo: mode  # copies of a module belong to the same mode
        try:
            if autocast is not None:
                torch.set_autocast_enabled('cuda', True)
                torch.set_autocast_dtype('cuda', autocast)
            yield
        finally:
            torch.set_autocast_enabled('cuda', before[0])
            torch.set_autocast_dtype('cuda', before[1])
            torch.clear_autocast_cache()
