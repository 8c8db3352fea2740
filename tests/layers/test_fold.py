"""Folding for inference does not change the function, and nothing is folded that must not be."""
import pytest
import torch
from torch import nn

from mmcontainer.layers.deployed.fold import (
    CannotFold,
    conv_plus_identity,
    conv_then_norm,
    norm_then_conv,
)


def _norm(channels):
    norm = nn.BatchNorm2d(channels).double()
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        parameter.data.normal_()
    norm.running_var.uniform_(0.1, 3)
    return norm.eval()


@pytest.mark.parametrize('bias', [False, True])
def test_folded_norms_give_the_same_output(bias):
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    norm, conv = _norm(6), nn.Conv2d(6, 4, 1, bias=bias).double().eval()
    torch.testing.assert_close(norm_then_conv(norm, conv)(x), conv(norm(x)))
    norm = _norm(4)
    torch.testing.assert_close(conv_then_norm(conv, norm)(x), norm(conv(x)))


@pytest.mark.parametrize('bias', [False, True])
def test_norms_without_a_shift_fold(bias):
    norm, x = _norm(6), torch.randn(2, 6, 5, 3, dtype=torch.float64)
    norm.bias = None  # BatchNorm2d(bias=False) of PyTorch 2.12
    conv = nn.Conv2d(6, 6, 1, bias=bias).double().eval()
    torch.testing.assert_close(norm_then_conv(norm, conv)(x), conv(norm(x)))
    torch.testing.assert_close(conv_then_norm(conv, norm)(x), norm(conv(x)))


def test_folded_identity_equals_residual():
    conv = nn.Conv2d(3, 3, 3, padding=1, groups=3).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(conv_plus_identity(conv)(x), x + conv(x))


class Adapter(nn.Conv2d):
    """Stands for the module that a library for fine-tuning puts in place of a convolution."""


class NormAct(nn.BatchNorm2d):
    """Stands for timm's norms that are followed by an activation."""

    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(('norm', 'conv', 'reason'), [
    (nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1), 'size .* behind a norm'),
    (nn.BatchNorm2d(6), Adapter(6, 4, 1), 'Adapter'),
    (nn.GroupNorm(2, 6), nn.Conv2d(6, 4, 1), 'GroupNorm'),
    (NormAct(6), nn.Conv2d(6, 4, 1), 'NormAct'),
    (nn.BatchNorm2d(6, track_running_stats=False), nn.Conv2d(6, 4, 1), 'fixed statistics'),
    (nn.BatchNorm2d(6, affine=False), nn.Conv2d(6, 4, 1), 'a scale'),
])
def test_other_modules_are_not_folded(norm, conv, reason):
    with pytest.raises(CannotFold, match=reason):
        norm_then_conv(norm, conv)


@pytest.mark.parametrize('hooked', ['norm', 'conv'])
def test_hooked_modules_are_not_folded(hooked):
    parts = dict(norm=nn.BatchNorm2d(6), conv=nn.Conv2d(6, 6, 1))
    parts[hooked].register_forward_hook(lambda *args: None)
    with pytest.raises(CannotFold, match='hook'):
        norm_then_conv(**parts)
    with pytest.raises(CannotFold, match='hook'):
        conv_then_norm(**parts)
