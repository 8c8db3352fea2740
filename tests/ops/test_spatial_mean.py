"""The mean over positions, and its gradient in the format of the map."""
import torch

from mmcontainer.ops import spatial_mean


def test_equals_the_mean():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(spatial_mean(x), x.mean((2, 3), keepdim=True))
    assert torch.autograd.gradcheck(spatial_mean, x)
    assert torch.autograd.gradgradcheck(spatial_mean, x)
    assert not spatial_mean(x.detach()).requires_grad


def test_gradients_stay_in_channels_last():
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    (x * spatial_mean(x)).sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    expected = x.mean((2, 3), keepdim=True) * 2
    torch.testing.assert_close(x.grad, expected.expand(x.shape).detach())


def test_half_precision_keeps_its_type():
    x = torch.randn(1, 2, 3, 3).bfloat16().requires_grad_()
    spatial_mean(x).sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_functional_transforms():
    x = torch.randn(2, 3, 4, 5)
    found = torch.func.grad(lambda x: spatial_mean(x).square().sum())(x)
    torch.testing.assert_close(found, (x.mean((2, 3), keepdim=True) / 10).expand(x.shape))
