"""Folding for inference does not change the function."""
import pytest
import torch
from torch import nn

from mmcontainer.ops import add_identity_to_depthwise, fold_norm_into_conv


def test_folded_norm_gives_the_same_output():
    norm, conv = nn.BatchNorm2d(6).double(), nn.Conv2d(6, 4, 1).double()
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        parameter.data.normal_()
    norm.running_var.uniform_(0.1, 3)
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    expected = conv(norm.eval()(x))
    fold_norm_into_conv(norm, conv)
    torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)


def test_norm_is_not_folded_into_a_padded_convolution():
    with pytest.raises(ValueError, match='unpadded 1x1'):
        fold_norm_into_conv(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1))


def test_folded_identity_equals_residual():
    conv = nn.Conv2d(3, 3, 3, padding=1, groups=3).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = x + conv(x)
    add_identity_to_depthwise(conv.weight)
    torch.testing.assert_close(conv(x), expected)
