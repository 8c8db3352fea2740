"""Attention modulated by a Gaussian: all forms agree, and with the formula of the paper."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor
from torch_versions import needs_compile

from mmcontainer.ops import gaussian_affinity, gaussian_attention, gaussian_bias
from mmcontainer.ops import modulated_attention as module

FAST_FORMS = ('fold', 'separable')


def _inputs(grid_size, scales=2, square=4., queries=7, batch=2, heads=2, channels=5, reach=0.):
    """query, key, value, point, scale in float64; points may lie ``reach`` maps outside."""
    height, width = grid_size
    tokens = [torch.randn(batch, heads, number, channels, dtype=torch.float64)
              for number in (queries, height * width, height * width)]
    place = torch.rand(batch, heads, queries, 2, dtype=torch.float64)
    point = (place * (1 + 2 * reach) - reach) * torch.tensor([width, height])
    scale = None
    if scales is not None:
        scale = square**0.5 * (1 + 0.1 * torch.randn(batch, heads, queries, scales).double())
        scale[..., 2:] *= 0.2
    return *tokens, point, scale


def _padding(grid_size, batch=2):
    """Each sample has fewer valid columns than the one before it; the first has no padding."""
    columns = torch.arange(grid_size[1]).expand(batch, *grid_size)
    first = grid_size[1] - torch.arange(batch) * grid_size[1] // (2 * batch)
    return (columns >= first[:, None, None]).flatten(1)


def _results(form, inputs, dtype=torch.float64, **kwargs):
    """Output and all gradients, in float64."""
    inputs = [None if t is None else t.to(dtype).requires_grad_() for t in inputs]
    out = gaussian_attention(*inputs, form=form, **kwargs)
    torch.manual_seed(1)
    upstream = torch.randn(out.shape).to(out.dtype)
    wanted = [t for t in inputs if t is not None]
    return [t.detach().double() for t in (out, *torch.autograd.grad(out, wanted, upstream))]


def _errors(found, expected):
    """Largest error of each tensor in units of its largest entry."""
    return [((a - b).abs().max() / b.abs().max().clamp(min=1e-3)).item()
            for a, b in zip(found, expected)]


def test_explicit_form_is_the_formula():
    query, key, value, point, scale = _inputs((2, 3), scales=3, batch=1, heads=1, queries=2)
    out = gaussian_attention(query, key, value, point, scale, (2, 3), 4., form='explicit')
    for i in range(2):
        x, y = point[0, 0, i].tolist()
        s_x, s_y, s_xy = scale[0, 0, i].tolist()
        weights = []
        for j, (row, column) in enumerate((r, c) for r in range(2) for c in range(3)):
            dx, dy = (x - column)**2, (y - row)**2
            logit = (query[0, 0, i] @ key[0, 0, j]).item() / math.sqrt(5)
            weights.append(math.exp(logit - (s_x**2 * dx + s_y**2 * dy + s_xy**2 * dx * dy) / 4))
        expected = sum(w * value[0, 0, j] for j, w in enumerate(weights)) / sum(weights)
        torch.testing.assert_close(out[0, 0, i], expected)


def test_affinity_before_and_after_modulation():
    query, key, _, point, scale = _inputs((4, 6))
    before = gaussian_affinity(query, key, point, scale, (4, 6), smooth=math.inf)
    plain = (query @ key.transpose(-2, -1) / 5**0.5).softmax(-1)
    torch.testing.assert_close(before, plain)
    after = gaussian_affinity(query, key, point, scale, (4, 6))
    torch.testing.assert_close(after, torch.softmax(
        plain.log() + gaussian_bias(point, scale, (4, 6)), -1))


@settings(deadline=None, max_examples=25)
@given(grid_size=st.tuples(st.integers(1, 9), st.integers(1, 14)),
       scales=st.sampled_from([None, 2, 3]), square=st.sampled_from([0.01, 4., 100.]),
       reach=st.sampled_from([0., 1.]), padded=st.booleans(), channels=st.integers(1, 9),
       seed=st.integers(0, 99))
def test_all_forms_are_equal_in_float64(grid_size, scales, square, reach, padded, channels, seed):
    torch.manual_seed(seed)
    inputs = _inputs(grid_size, scales, square, reach=reach, channels=channels)
    kwargs = dict(grid_size=grid_size,
                  key_padding_mask=_padding(grid_size) if padded else None)
    expected = _results('explicit', inputs, **kwargs)
    for form in ('separable', 'auto') if scales == 3 else FAST_FORMS:
        assert max(_errors(_results(form, inputs, **kwargs), expected)) < 1e-10, form


@pytest.mark.parametrize('form', FAST_FORMS)
@pytest.mark.parametrize(('grid_size', 'square', 'reach'), [
    ((25, 42), 1., 0.), ((25, 42), 1., 0.5), ((25, 42), 28., 0.), ((25, 42), 28., 0.5),
    ((25, 42), 100., 0.), ((120, 140), 1., 0.), ((120, 140), 16., 0.)])
def test_float32_is_accurate(form, grid_size, square, reach):
    """1e-4 of the output's largest entry and 1e-3 of each gradient's, against float64.

    The separable form stands for the explicit one, which it equals in float64 (see above).
    """
    torch.manual_seed(0)
    inputs = _inputs(grid_size, 2, square, queries=40, heads=2, channels=32, reach=reach)
    kwargs = dict(grid_size=grid_size, key_padding_mask=_padding(grid_size))
    out, *gradients = _errors(_results(form, inputs, torch.float32, **kwargs),
                              _results('separable', inputs, **kwargs))
    assert out < 1e-4
    assert max(gradients) < 1e-3, gradients


@pytest.mark.parametrize('form', module.FORMS)
def test_padding_is_not_seen(form):
    inputs = _inputs((4, 6))
    mask = _padding((4, 6))
    assert mask.any() and not mask.all(1).any()
    changed = [t.clone() for t in inputs]
    for tensor in changed[1:3]:
        tensor.masked_fill_(mask[:, None, :, None], 50.)
    outs = [gaussian_attention(*tensors, (4, 6), key_padding_mask=mask, form=form)
            for tensors in (inputs, changed)]
    torch.testing.assert_close(*outs, rtol=0, atol=1e-12)


def test_sample_of_padding_alone_is_finite_and_the_same_in_all_forms():
    inputs = _inputs((3, 5))
    mask = torch.tensor([True, False])[:, None].repeat(1, 15)
    expected = _results('explicit', inputs, grid_size=(3, 5))
    for form in module.FORMS:
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            found = _results(form, inputs, dtype, grid_size=(3, 5), key_padding_mask=mask)
            assert max(_errors(found, expected)) < tolerance, (form, dtype)


@pytest.mark.parametrize(('form', 'scales'), [
    ('fold', None), ('fold', 2), ('separable', None), ('separable', 2), ('separable', 3)])
def test_gradients_equal_finite_differences(form, scales):
    inputs = [None if t is None else t.requires_grad_()
              for t in _inputs((3, 9), scales, queries=3, batch=1, channels=2)]
    mask = _padding((3, 9), batch=1)
    assert torch.autograd.gradcheck(
        lambda *args: gaussian_attention(*args, (3, 9), key_padding_mask=mask, form=form), inputs,
        fast_mode=True)


def test_fold_builds_no_affinity():
    inputs = [t.float().requires_grad_() for t in _inputs((25, 42), queries=300, channels=32)]
    with LargestTensor() as probe:
        gaussian_attention(*inputs, (25, 42), key_padding_mask=_padding((25, 42))).sum().backward()
    keys = 2 * 2 * 25 * 42
    assert probe.largest == keys * 48  # 32 channels and 16 features
    assert probe.largest < keys * 300 / 6


@pytest.mark.parametrize('form', module.FORMS)
@pytest.mark.parametrize('empty', [dict(batch=0), dict(queries=0)])
def test_batches_of_nothing(form, empty):
    inputs = _inputs((5, 6), **empty)
    assert gaussian_attention(*inputs, (5, 6), form=form).shape == inputs[0].shape


def test_separable_mask_is_built_for_some_queries_at_a_time(monkeypatch):
    inputs = _inputs((5, 6), scales=3)
    whole = _results('separable', inputs, grid_size=(5, 6))
    monkeypatch.setattr(module, 'MASK_ELEMENTS', 2 * 2 * 2 * 30)  # of 2 queries
    assert max(_errors(_results('separable', inputs, grid_size=(5, 6)), whole)) < 1e-12
    inputs = [t.requires_grad_() for t in inputs]
    with LargestTensor() as probe:
        gaussian_attention(*inputs, (5, 6)).sum().backward()
    assert probe.largest == max(2 * 2 * 30 * 5, module.MASK_ELEMENTS)


@pytest.mark.parametrize('form', module.FORMS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_and_autocast_compute_in_float32(form, dtype):
    inputs = [t.to(dtype) for t in _inputs((8, 9), square=28.)]
    expected = gaussian_attention(*(t.double() for t in inputs), (8, 9), form='explicit')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = gaussian_attention(*inputs, (8, 9), form=form)
    assert out.dtype == dtype
    tolerance = torch.finfo(dtype).eps + 1e-5  # of the result's own rounding
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('form', module.FORMS)
def test_dropout_keeps_the_mean(form):
    torch.manual_seed(0)
    query, key, _, point, scale = _inputs((4, 4), queries=2000, batch=1, square=0.01)
    value = torch.ones_like(key)
    out = gaussian_attention(query, key, value, point, scale, (4, 4), dropout_p=0.5, form=form)
    assert out.std() > 0.1
    assert abs(out.mean() - 1) < 0.03


@needs_compile
@pytest.mark.no_cover
@pytest.mark.parametrize(('scales', 'backend'), [
    pytest.param(2, 'inductor', marks=pytest.mark.slow), (3, 'aot_eager')])
def test_compiles_to_one_graph(scales, backend):
    inputs = [t.float().requires_grad_() for t in _inputs((5, 6), scales)]
    mask = _padding((5, 6))

    def attend(*args):
        return gaussian_attention(*args, (5, 6), key_padding_mask=mask)

    compiled = torch.compile(attend, fullgraph=True, backend=backend)
    expected, found = (
        (out, *torch.autograd.grad(out.sum(), inputs))
        for out in (attend(*inputs), compiled(*inputs)))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(('change', 'message'), [
    (dict(form='flash'), 'form must be one of'),
    (dict(grid_size=(6, 5)), '6 x 5 cells has 30 keys'),
    (dict(point=torch.zeros(2, 7, 2)), 'point must have shape'),
    (dict(scale=torch.zeros(2, 2, 7, 1)), 'Expand one scale'),
    (dict(scale=torch.zeros(2, 2, 7, 3), form='fold'), "use form='separable'"),
    (dict(key_padding_mask=torch.zeros(2, 24)), 'must be bool'),
    (dict(value=torch.zeros(2, 2, 23, 5)), 'needs query'),
])
def test_wrong_arguments_are_named(change, message):
    names = ('query', 'key', 'value', 'point', 'scale')
    arguments = dict(zip(names, _inputs((4, 6))), grid_size=(4, 6))
    with pytest.raises(ValueError, match=message):
        gaussian_attention(**{**arguments, **change})


def test_shapes_alone_suffice():
    inputs = [t.to('meta') for t in _inputs((4, 6))]
    assert gaussian_attention(*inputs, (4, 6)).shape == inputs[0].shape
