"""Maps and their gradients take the format that convolutions like."""
import pytest
import torch

from mmcontainer.layers.memory_format import (
    as_contiguous,
    as_output,
    as_stage_input,
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


@pytest.mark.parametrize('device, memory_format, expected', [
    ('cpu', torch.contiguous_format, torch.channels_last),
    ('meta', torch.contiguous_format, torch.contiguous_format),
    ('meta', torch.channels_last, torch.channels_last)])
def test_a_stage_begins_in_the_format_of_its_convolutions(device, memory_format, expected):
    """On a GPU, which 'meta' stands for, that is what the caller gave."""
    before = torch.empty(2, 8, 5, 6, device=device).to(memory_format=memory_format)
    normed = torch.empty(2, 5, 6, 8, device=device).permute(0, 3, 1, 2)
    assert as_stage_input(normed, before).is_contiguous(memory_format=expected)


@pytest.mark.parametrize('shape', [(2, 8, 90, 60), (1, 1, 3, 4), (0, 8, 5, 6), (3, 4, 1, 1)],
                         ids=str)
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize('threads', [1, 3])
def test_contiguous_maps(shape, dtype, threads, monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    x = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
    for given in (x, x.contiguous(), x.transpose(2, 3), x[..., 1:], x[:, ::2]):
        out = as_contiguous(given)
        assert out.is_contiguous() and out.dtype == dtype and torch.equal(out, given)


def test_contiguous_maps_have_gradients():
    x = torch.randn(2, 8, 5, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(2, 8, 5, 6)
    (as_contiguous(x) * weight).sum().backward()
    assert torch.equal(x.grad, weight)
    with torch.no_grad():
        assert as_contiguous(x).is_contiguous()
