"""Every operator on the device, forward and backward, against its explicit twin in float64."""
from functools import partial

import numpy as np
import pytest
import torch
from aggregation_cases import TOLERANCES, assert_close, channels_last, exact, random_case
from golden_rule import GOLDEN
from on_device import computing, precisions, relative_errors

from mmcontainer.ops import (
    aggregate,
    attention_affinity,
    gaussian_attention,
    local_aggregation,
    relative_affinity,
    relative_attention,
    self_attention,
)

pytestmark = pytest.mark.gpu

FIXTURES = sorted(GOLDEN.glob('cot_aggregation__*.npz'))
GRID = (13, 17)
# Of float32 with and without TF32, as in test_backbones.py, and of autocast.
LIMITS = dict(float32=2e-4, tf32=2e-2, float16=2e-2, bfloat16=5e-2)


@pytest.mark.parametrize('path', FIXTURES, ids=lambda path: path.stem)
def test_aggregation_is_that_of_the_official_kernel(path, device):
    values = {key: torch.from_numpy(value) for key, value in np.load(path).items()}
    inputs = [values[key].to(device).requires_grad_() for key in ('input', 'weight')]
    out = local_aggregation(*inputs, int(values['kernel_size']), int(values['dilation']))
    grads = torch.autograd.grad(out, inputs, values['grad_output'].to(device))
    for found, key in zip((out, *grads), ('output', 'grad_input', 'grad_weight')):
        torch.testing.assert_close(found.cpu(), values[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('dtype', list(TOLERANCES))
@pytest.mark.parametrize('layout', [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize(('size', 'dilation'), [((1, 1), 1), ((37, 50), 1), ((9, 4), 3)])
def test_aggregation(dtype, layout, size, dilation, device):
    torch.manual_seed(0)
    x, weight, grad = map(layout, random_case(2, 8, 24, 1, size, 3, dtype, device))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    out = local_aggregation(x, weight, 3, dilation)
    found = (out, *torch.autograd.grad(out, (x, weight), grad))
    assert_close(found, exact(x, weight, grad, 3, dilation), dtype)


@pytest.mark.parametrize('dtype', list(TOLERANCES))
@pytest.mark.parametrize('layout', [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize(('sharing', 'groups', 'heads', 'kernel'), [
    (8, 24, 1, 3), (3, 5, 2, 3), (64, 2, 1, 3), (8, 4, 1, 5)])
def test_triton_kernels_equal_pytorch(sharing, groups, heads, kernel, dtype, layout, cuda):
    """The two forms of the operator, on the GPU; and Triton is what is used there."""
    pytest.importorskip('triton')
    from mmcontainer.ops import _local_aggregation_torch as torch_form
    from mmcontainer.ops import _local_aggregation_triton as triton_form
    from mmcontainer.ops.local_aggregation import _form_for
    torch.manual_seed(0)
    case = random_case(2, sharing, groups, heads, (37, 50), kernel, dtype, cuda)
    x, weight, grad = map(layout, case)
    assert _form_for(x, weight) is triton_form
    found, expected = ((form.aggregate(x, weight, kernel, 1),
                        *form.aggregate_backward(grad, x, weight, kernel, 1))
                       for form in (triton_form, torch_form))
    assert [t.stride() for t in found] == [t.stride() for t in expected]
    assert_close(found, [t.double().cpu() for t in expected], dtype)


def _attention(query, key, value, form):
    if form == 'explicit':
        return aggregate(attention_affinity(query, key, 4), value)
    return self_attention(query, key, value, num_heads=4)


def _relative(query, key, value, table, form):
    if form == 'explicit':
        return relative_affinity(query, key, table, GRID) @ value
    return relative_attention(query, key, value, table, GRID, form=form)


def _modulated(*inputs, form):
    return gaussian_attention(*inputs, GRID, 8., form=form)


def _maps():
    return [torch.randn(2, 64, *GRID) for _ in range(3)]


def _tokens():
    return [torch.randn(2, 4, GRID[0] * GRID[1], 32) for _ in range(3)]


def _with_table():
    return [*_tokens(), torch.randn(4, 2 * GRID[0] - 1, 2 * GRID[1] - 1)]


def _queries():
    query, key, value = _tokens()
    point = torch.rand(2, 4, 20, 2) * torch.tensor([float(GRID[1]), float(GRID[0])])
    return [query[:, :, :20], key, value, point, 1 + 0.3 * torch.randn(2, 4, 20, 2)]


CASES = {
    'self-attention': (_maps, _attention, 'fast'),
    'relative attention': (_with_table, _relative, 'dense'),
    'relative attention, no matrix': (_with_table, _relative, 'toeplitz'),
    'modulated attention': (_queries, _modulated, 'auto'),
    'modulated attention, mask': (_queries, _modulated, 'separable'),
}


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('rounding', LIMITS)
def test_attention(name, rounding, device):
    """Output and the gradients to all inputs, points and scales included."""
    if rounding not in precisions(torch.device(device)):
        pytest.skip(f'{rounding} is of no use on this device')
    make_inputs, function, form = CASES[name]
    torch.manual_seed(0)
    inputs = make_inputs()

    def run(function, inputs):
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        out = function(*inputs)
        return (out, *torch.autograd.grad(out.square().sum(), inputs))

    expected = run(partial(function, form='explicit'), [tensor.double() for tensor in inputs])
    with computing(rounding, torch.device(device)):
        found = run(partial(function, form=form), [tensor.to(device) for tensor in inputs])
    errors = relative_errors(found, expected)
    assert max(errors) < LIMITS[rounding], errors
