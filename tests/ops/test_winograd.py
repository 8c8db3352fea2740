"""Winograd's convolution equals the ordinary one."""
import pytest
import torch
import torch.nn.functional as F

from mmcontainer.ops.winograd import winograd_conv2d, winograd_kernels


def _inputs(batch, height, width, channels=3, out_channels=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, channels, height, width), (out_channels, channels, 3, 3), (out_channels, )
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for shape in shapes]


@pytest.mark.parametrize('chunk', [1, 4000, 2**22])  # a row of tiles, some rows or images, all
@pytest.mark.parametrize('size', [(1, 1, 1), (2, 1, 4), (1, 6, 8), (3, 7, 5), (2, 9, 2)])
@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
def test_equals_convolution(size, chunk, memory_format, monkeypatch):
    monkeypatch.setattr('mmcontainer.ops.winograd.CHUNK_BYTES', chunk)
    x, weight, bias = _inputs(*size)
    x = x.contiguous(memory_format=memory_format)
    before, kernels = x.clone(), winograd_kernels(weight)
    for offset in (bias, None):
        found = winograd_conv2d(x, kernels, offset)
        torch.testing.assert_close(found, F.conv2d(x, weight, offset, padding=1))
        assert found.permute(0, 2, 3, 1).stride(3) == 1, 'channels lie together'
    assert torch.equal(x, before)


def test_no_images():
    x, weight, bias = _inputs(0, 4, 4)
    assert winograd_conv2d(x, winograd_kernels(weight), bias).shape == (0, 5, 4, 4)


def test_float32_is_as_exact_as_direct_sums():
    x, weight, bias = _inputs(1, 20, 24, channels=256, out_channels=64)
    exact = F.conv2d(x, weight, bias, padding=1)
    found = winograd_conv2d(x.float(), winograd_kernels(weight.float()), bias.float())
    assert (found - exact).abs().max() < 1e-5 * exact.std()
