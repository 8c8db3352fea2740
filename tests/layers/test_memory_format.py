"""Maps and their gradients take the format that convolutions like."""
import torch

from mmcontainer.layers.memory_format import (
    as_output,
    prefer_channels_last,
    with_channels_last_gradient,
)


def test_gradients_continue_in_channels_last():
    x = torch.randn(2, 8, 5, 6, requires_grad=True)
    seen = []
    source = 2 * prefer_channels_last(x)
    source.register_hook(seen.append)
    out = with_channels_last_gradient(source)
    assert out is not source and torch.equal(out, source)
    weight = torch.randn(2, 8, 5, 6)  # contiguous, as is the gradient to the map
    (out * weight).sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x.grad, 2 * weight)


def test_without_gradients_nothing_is_added():
    x = torch.randn(2, 8, 5, 6)
    assert with_channels_last_gradient(x) is x


def test_what_leaves_is_contiguous_and_its_gradient_continues_in_channels_last():
    x = torch.randn(2, 8, 5, 6, requires_grad=True)
    seen = []
    source = 2 * prefer_channels_last(x)
    source.register_hook(seen.append)
    out = as_output(source)
    assert out.is_contiguous() and torch.equal(out, source)
    out.sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
