"""Attention with a relative bias: both fast forms against the explicit matrix."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor
from torch_versions import needs_compile, needs_torch

from mmcontainer.ops import relative_affinity, relative_attention, relative_bias


def _inputs(batch=2, heads=2, size=(3, 4), dim=4, dtype=torch.float64):
    torch.manual_seed(0)
    tokens = [torch.randn(batch, heads, size[0] * size[1], dim, dtype=dtype).requires_grad_()
              for _ in range(3)]
    table = torch.randn(heads, 2 * size[0] - 1, 2 * size[1] - 1, dtype=dtype).requires_grad_()
    return (*tokens, table)


def test_bias_is_that_of_the_offset():
    """Written out: every pair of positions by its own."""
    height, width = 2, 3
    table = torch.arange(2 * 3 * 5.).view(2, 3, 5)
    bias = relative_bias(table, (height, width))
    for i in range(6):
        for j in range(6):
            dy, dx = i // width - j // width, i % width - j % width
            assert torch.equal(bias[:, i, j], table[:, dy + height - 1, dx + width - 1])


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 2), heads=st.integers(1, 3), height=st.integers(1, 6),
       width=st.integers(1, 6), dim=st.integers(1, 5),
       form=st.sampled_from(['dense', 'toeplitz', 'auto']))
def test_fast_equals_explicit_with_gradients(batch, heads, height, width, dim, form):
    inputs = _inputs(batch, heads, (height, width), dim)
    expected = relative_affinity(*inputs[:2], inputs[3], (height, width)) @ inputs[2]
    upstream = torch.randn_like(expected)
    out = relative_attention(*inputs, (height, width), form=form)
    found = torch.autograd.grad(out, inputs, upstream)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    for a, b in zip(found, torch.autograd.grad(expected, inputs, upstream)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_gradcheck():
    torch.autograd.gradcheck(
        lambda *inputs: relative_attention(*inputs, (2, 3), form='toeplitz'),
        _inputs(1, 2, (2, 3), 3))


@pytest.mark.parametrize('form', ['dense', 'toeplitz'])
def test_gradients_can_be_differentiated_again(form):
    torch.autograd.gradgradcheck(
        lambda *inputs: relative_attention(*inputs, (2, 3), form=form), _inputs(1, 1, (2, 3), 2))


def test_gradients_of_gradients_are_those_of_the_explicit_form():
    """Of an upstream gradient that needs none itself, which once gave a part of the sum."""
    found = []
    for form in ('dense', 'toeplitz'):
        query, *rest = inputs = _inputs()
        grad, = torch.autograd.grad(relative_attention(*inputs, (3, 4), form=form).sum(), rest[1],
                                    create_graph=True)
        found += torch.autograd.grad(grad.square().sum() + query.square().sum(), query)
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)


def test_one_tensor_in_several_places():
    x, *_, table = _inputs()
    found = [torch.autograd.grad(relative_attention(x, x, x, table, (3, 4), form=form).sin().sum(),
                                 [x, table], create_graph=create_graph)
             for form, create_graph in (('dense', False), ('toeplitz', False), ('toeplitz', True))]
    for gradients in found[1:]:
        torch.testing.assert_close(gradients, found[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize(('dtype', 'tolerance'), [
    (torch.float32, 1e-4), (torch.bfloat16, 0.05),
    pytest.param(torch.float16, 0.01, marks=needs_torch('2.5.0', 'float16 on a CPU'))])
def test_other_precisions(dtype, tolerance):
    inputs = [t.detach().to(dtype).requires_grad_() for t in _inputs(2, 3, (5, 7), 8)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    out = relative_attention(*inputs, (5, 7), form='toeplitz')
    expected = relative_affinity(*exact[:2], exact[3], (5, 7)) @ exact[2]
    upstream = torch.randn_like(out)
    found = (out, *torch.autograd.grad(out, inputs, upstream))
    wanted = (expected, *torch.autograd.grad(expected, exact, upstream.double()))
    for a, b in zip(found, wanted):
        assert a.dtype == dtype
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_backward_inside_of_autocast():
    inputs = [t.detach().float().requires_grad_() for t in _inputs(2, 3, (5, 7), 8)]
    found = []
    for is_on in (False, True):
        out = relative_attention(*inputs, (5, 7), form='toeplitz')
        with torch.autocast('cpu', torch.bfloat16, enabled=is_on):
            found.append(torch.autograd.grad(out.square().sum(), inputs))
    torch.testing.assert_close(*found)


@needs_torch('2.5.0', 'fused attention with biases')
def test_the_matrix_is_never_built():
    size, heads = (24, 30), 4
    positions = size[0] * size[1]
    inputs = _inputs(1, heads, size, 8, torch.float32)
    with LargestTensor() as probe:
        out = relative_attention(*inputs, size, form='toeplitz')
    assert probe.largest < heads * positions**2 / 5
    with LargestTensor() as probe:
        out.sum().backward()
    assert probe.largest < heads * positions**2 / 5
    with LargestTensor() as probe:
        relative_attention(*inputs, size, form='dense')
    assert probe.largest >= heads * positions**2


@needs_compile
@pytest.mark.parametrize('form', ['dense', 'toeplitz'])
def test_compiles_as_one_graph(form):
    inputs = _inputs(1, 2, (3, 4), 4, torch.float32)
    compiled = torch.compile(relative_attention, backend='aot_eager', fullgraph=True)
    out, expected = (f(*inputs, (3, 4), form=form) for f in (compiled, relative_attention))
    torch.testing.assert_close(out, expected)
    for a, b in zip(*(torch.autograd.grad(o.sum(), inputs) for o in (out, expected))):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(('change', 'message'), [
    (dict(form='sparse'), 'auto, dense, toeplitz'),
    (dict(grid_size=(4, 4)), r'needs queries of 16 positions and a table \(2, 7, 7\)')])
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        relative_attention(*_inputs(), **{'grid_size': (3, 4), **change})
