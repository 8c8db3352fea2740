"""Local aggregation equals its explicit twin and the numbers of the official kernel."""
import numpy as np
import pytest
import torch
from golden_rule import GOLDEN

from mmcontainer.ops import local_aggregation, unfold_local_aggregation

FIXTURES = sorted(GOLDEN.glob('cot_aggregation__*.npz'))


@pytest.mark.parametrize('function', [local_aggregation, unfold_local_aggregation])
@pytest.mark.parametrize('path', FIXTURES, ids=lambda path: path.stem)
def test_matches_official_kernel(path, function):
    values = {key: torch.from_numpy(value) for key, value in np.load(path).items()}
    inputs = [values[key].requires_grad_() for key in ('input', 'weight')]
    out = function(*inputs, int(values['kernel_size']), int(values['dilation']))
    grads = torch.autograd.grad(out, inputs, values['grad_output'])
    for found, key in zip((out, *grads), ('output', 'grad_input', 'grad_weight')):
        torch.testing.assert_close(found, values[key], rtol=1e-12, atol=1e-12)
