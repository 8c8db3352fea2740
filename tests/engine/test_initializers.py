"""The initialiser that starts layers as PyTorch does."""
import pytest
import torch
from mmengine.model import BaseModule, initialize
from torch import nn

import mmcontainer  # noqa: F401  registers the initialisers


class _Pair(BaseModule):

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(4, 8, 1)
        self.linear = nn.Linear(4, 8)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 9)


def test_layers_start_as_pytorch_starts_them():
    model = _Pair(dict(type='ResetParameters', layer='Conv2d'))
    torch.manual_seed(0)
    model.init_weights()
    torch.manual_seed(0)
    fresh = nn.Conv2d(4, 8, 1)
    assert torch.equal(model.conv.weight, fresh.weight)
    assert torch.equal(model.conv.bias, fresh.bias)
    assert (model.linear.weight == 9).all() and (model.linear.bias == 9).all()


def test_several_kinds_of_layers():
    model = _Pair()
    initialize(model, dict(type='ResetParameters', layer=['Conv2d', 'Linear']))
    assert all((parameter != 9).all() for parameter in model.parameters())


def test_a_name_that_fits_nothing_is_an_error():
    with pytest.raises(ValueError, match='found no Conv3d to initialise in _Pair'):
        initialize(_Pair(), dict(type='ResetParameters', layer='Conv3d'))
