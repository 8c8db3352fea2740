"""Depth-wise convolution equals PyTorch's; in half precision its weights' gradient is better."""
import pytest
import torch
import torch.nn.functional as F
from torch_versions import float16

from mmcontainer.layers import DepthwiseConv2d
from mmcontainer.ops import depthwise, depthwise_conv2d

LOW = [torch.bfloat16, float16]


def _inputs(channels=4, kernel_size=5, size=(2, 9, 7), bias=True):
    generator = torch.Generator().manual_seed(0)
    batch, height, width = size
    x = torch.randn(batch, channels, height, width, generator=generator)
    weight = torch.randn(channels, 1, kernel_size, kernel_size, generator=generator)
    parts = [x, weight] + ([torch.randn(channels, generator=generator)] if bias else [])
    return [part.requires_grad_() for part in parts]


def _explicit(x, weight, bias=None, stride=1):
    return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=len(weight))


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('kernel_size', [1, 3, 5])
def test_autocast_equals_float32_on_rounded_numbers(kernel_size, bias, stride):
    inputs = _inputs(kernel_size=kernel_size, bias=bias)
    padding = kernel_size // 2
    bias = inputs[2] if bias else None
    with torch.autocast('cpu', torch.bfloat16):
        out = depthwise_conv2d(inputs[0], inputs[1], bias, stride, padding)
    assert out.dtype == torch.bfloat16
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = torch.autograd.grad(out, inputs, grad)
    rounded = [part.detach().bfloat16().double().requires_grad_() for part in inputs]
    expected = torch.autograd.grad(_explicit(*rounded, stride=stride), rounded, grad.double())
    assert all(gradient.dtype == torch.float32 for gradient in found)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=0.02,
                               atol=0.03 * expected[0].std().item())
    for gradient, exact in zip(found[1:], expected[1:]):
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', LOW)
def test_a_model_in_half_precision(dtype):
    conv = DepthwiseConv2d(3, 3).to(dtype)
    x = torch.randn(1, 3, 6, 5).to(dtype).requires_grad_()
    conv(x).float().square().sum().backward()
    assert {part.grad.dtype for part in (x, conv.weight, conv.bias)} == {dtype}


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize('chunk_bytes', [1, 2000, depthwise.CHUNK_BYTES])
@pytest.mark.parametrize('size', [(3, 9, 7), (2, 1, 1), (1, 2, 3), (1, 20, 4)])
@pytest.mark.parametrize('kernel_size', [5, 7, 9])
def test_wide_kernels_in_float32(
        monkeypatch, kernel_size, size, chunk_bytes, memory_format, bias):
    monkeypatch.setattr(depthwise, 'CHUNK_BYTES', chunk_bytes)
    inputs = _inputs(kernel_size=kernel_size, size=size, bias=bias)
    images = inputs[0].to(memory_format=memory_format)
    out = depthwise_conv2d(images, *inputs[1:])
    assert type(out.grad_fn).__name__ == '_DepthwiseConv2dBackward'
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(out, inputs, grad)
    exact = [part.detach().double().requires_grad_() for part in inputs]
    expected = torch.autograd.grad(_explicit(*exact), exact, grad.double())
    for gradient, wanted in zip(found, expected):
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-4)


def test_no_images_and_mixed_types():
    for kernel_size in (3, 5):
        x, *parameters = _inputs(kernel_size=kernel_size)
        depthwise_conv2d(x[:0], *parameters).sum().backward()
        assert not parameters[0].grad.any()
        with pytest.raises(RuntimeError, match='type'):
            depthwise_conv2d(x, *(part.bfloat16() for part in parameters))


def test_nothing_but_a_convolution_in_other_types():
    for dtype in (torch.float32, torch.float64):
        inputs = [part.detach().to(dtype) for part in _inputs()]
        assert torch.equal(depthwise_conv2d(*inputs), _explicit(*inputs))


@pytest.mark.parametrize('needed', [0, 1, 2])
def test_gradient_of_one_input_alone(needed):
    inputs = _inputs()
    for index, part in enumerate(inputs):
        part.requires_grad_(index == needed)
    with torch.autocast('cpu', torch.bfloat16):
        loss = depthwise_conv2d(*inputs).float().square().mean()
    found, = torch.autograd.grad(loss, inputs[needed])
    expected, = torch.autograd.grad(_explicit(*inputs).square().mean(), inputs[needed])
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)


def test_can_be_differentiated_twice():
    inputs = _inputs()

    def penalty(function, autocast):
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            out = function(*inputs).float()
        to_x, = torch.autograd.grad(out.square().mean(), inputs[0], create_graph=True)
        return torch.autograd.grad(to_x.square().sum(), inputs[1])[0]

    torch.testing.assert_close(penalty(depthwise_conv2d, True), penalty(_explicit, False),
                               rtol=0.05, atol=0.01)


def test_long_sums_lose_nothing():
    x = torch.ones(1, 1, 64, 64)
    weight, bias = torch.ones(1, 1, 1, 1).requires_grad_(), torch.ones(1).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        out = depthwise_conv2d(x, weight, bias)
    grad = torch.full_like(out, 1 + 2**-7)  # bfloat16 would round the sum
    found = torch.autograd.grad(out, (weight, bias), grad)
    assert [gradient.item() for gradient in found] == [4096 * (1 + 2**-7)] * 2
