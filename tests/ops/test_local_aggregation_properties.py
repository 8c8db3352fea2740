"""The operator behind local aggregation: gradients, layouts, types, graphs."""
import pytest
import torch
from torch_versions import needs_compile, needs_export

from mmcontainer.ops import local_aggregation, unfold_local_aggregation


def _inputs(batch=2, channels=8, groups=2, size=(5, 6), kernel=3, heads=None, dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(batch, channels, *size, dtype=dtype, requires_grad=True)
    shape = (batch, groups) if heads is None else (batch, heads, groups)
    return x, torch.randn(*shape, kernel**2, *size, dtype=dtype, requires_grad=True)


def _results(function, x, weight, *window):
    """Output and gradients."""
    out = function(x, weight, *window)
    torch.manual_seed(1)
    upstream = torch.randn(out.shape).to(out.dtype)
    return out, *torch.autograd.grad(out, (x, weight), upstream)


@pytest.mark.parametrize(('kernel', 'dilation', 'heads'), [(3, 1, None), (5, 1, 2), (3, 2, None)])
def test_gradients_of_both_orders_equal_finite_differences(kernel, dilation, heads):
    x, weight = _inputs(1, 4, 2, (3, 4), kernel, heads)

    def function(x, weight):
        return local_aggregation(x, weight, kernel, dilation)

    assert torch.autograd.gradcheck(function, (x, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, weight), fast_mode=True)


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (2, 2), (40, 33)])
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last', 'strided'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [
    (torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_equals_unfold_in_every_layout_and_type(size, layout, dtype, tolerance):
    x, weight = _inputs(size=size, dtype=dtype)
    exact = _results(unfold_local_aggregation,
                     *(t.detach().double().requires_grad_() for t in (x, weight)))
    if layout == 'channels_last':
        x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
        weight = weight.detach().flatten(1, 2).to(
            memory_format=torch.channels_last).unflatten(1, (2, 9)).requires_grad_()
    elif layout == 'strided':
        x = x.detach().repeat(1, 1, 2, 2)[..., :size[0], :size[1]].requires_grad_()
        weight = weight.detach().flip(0).flip(0).transpose(0, 1).contiguous().transpose(
            0, 1).requires_grad_()
    for found, expected in zip(_results(local_aggregation, x, weight), exact):
        assert found.dtype == dtype
        error = (found.double() - expected).abs().max()
        assert error <= tolerance * (1 + expected.abs().max())


def test_empty_batch():
    x, weight = _inputs(batch=0)
    out = local_aggregation(x, weight)
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad.shape == x.shape and weight.grad.shape == weight.shape


def test_only_the_inputs_are_kept_for_the_backward_pass():
    x, weight = _inputs(dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.append(t.numel()) or t, lambda t: t):
        local_aggregation(x, weight)
    assert sum(kept) == x.numel() + weight.numel()


def test_autocast_casts_both():
    x, weight = _inputs(dtype=torch.float32)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = local_aggregation(x, weight.bfloat16())
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert x.grad.dtype == torch.float32


@needs_compile
@pytest.mark.parametrize('dynamic', [False, True])
def test_compiles_as_one_graph_with_gradients(dynamic):
    compiled = torch.compile(
        local_aggregation, backend='aot_eager', fullgraph=True, dynamic=dynamic)
    for size in ((5, 6), (7, 4)):
        inputs = _inputs(size=size)
        torch.testing.assert_close(
            _results(compiled, *inputs), _results(local_aggregation, *inputs))


@needs_export
def test_passes_pytorchs_checks_of_an_operator():
    x, weight = _inputs(1, 4, 2, (3, 4), dtype=torch.float32)
    torch.library.opcheck(torch.ops.mmcontainer.local_aggregation.default,
                          (x, weight[:, None].detach().requires_grad_(), 3, 1))


@needs_export
def test_exports_as_one_operator():
    class Aggregation(torch.nn.Module):

        def forward(self, x, weight):
            return local_aggregation(x, weight)

    x, weight = (t.detach() for t in _inputs(dtype=torch.float32))
    program = torch.export.export(Aggregation(), (x, weight))
    targets = [str(node.target) for node in program.graph.nodes]
    assert 'mmcontainer.local_aggregation.default' in targets
    torch.testing.assert_close(program.module()(x, weight), local_aggregation(x, weight))


@pytest.mark.parametrize(('change', 'window', 'message'), [
    (lambda x, w: (x, w), (4, 1), 'odd kernel_size, found 4'),
    (lambda x, w: (x, w), (5, 1), '25'),
    (lambda x, w: (x[:, :7], w), (3, 1), '7'),
    (lambda x, w: (x[..., :4], w), (3, 1), '4'),
    (lambda x, w: (x[:1], w), (3, 1), '1'),
    (lambda x, w: (x.float(), w), (3, 1), 'one type'),
    (lambda x, w: (x[0], w), (3, 1), r'\(8, 5, 6\)'),
    (lambda x, w: (x, w), (3, 0), 'dilation'),
])
def test_what_does_not_fit_is_named(change, window, message):
    with pytest.raises(ValueError, match=message):
        local_aggregation(*change(*_inputs()), *window)
