"""Local aggregation equals its explicit twin and the numbers of the official kernel."""
import inspect
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from aggregation_cases import TOLERANCES, assert_close, channels_last, exact, random_case
from golden_rule import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch_versions import needs_export

from mmcontainer.ops import _local_aggregation_torch as torch_form
from mmcontainer.ops import local_aggregation, unfold_local_aggregation
from mmcontainer.torch_compat import HAS_TRITON_3

FIXTURES = sorted(GOLDEN.glob('cot_aggregation__*.npz'))
needs_triton = pytest.mark.skipif(not HAS_TRITON_3, reason='needs Triton 3')


@pytest.mark.parametrize('function', [local_aggregation, unfold_local_aggregation])
@pytest.mark.parametrize('path', FIXTURES, ids=lambda path: path.stem)
def test_matches_official_kernel(path, function):
    values = {key: torch.from_numpy(value) for key, value in np.load(path).items()}
    inputs = [values[key].requires_grad_() for key in ('input', 'weight')]
    out = function(*inputs, int(values['kernel_size']), int(values['dilation']))
    grads = torch.autograd.grad(out, inputs, values['grad_output'])
    for found, key in zip((out, *grads), ('output', 'grad_input', 'grad_weight')):
        torch.testing.assert_close(found, values[key], rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(batch=st.integers(1, 3), sharing=st.integers(1, 3), groups=st.integers(1, 4),
       heads=st.integers(1, 2), height=st.integers(1, 9), width=st.integers(1, 9),
       kernel=st.sampled_from([1, 3, 5]), dilation=st.integers(1, 3),
       dtype=st.sampled_from(list(TOLERANCES)), slab=st.sampled_from([1, 20, 60, 150, 10**6]),
       layouts=st.tuples(*[st.booleans()] * 3))
def test_any_cut_into_slabs_gives_the_same(batch, sharing, groups, heads, height, width, kernel,
                                           dilation, dtype, slab, layouts):
    """Slabs of one row up to all images; x, weight and gradient in any combination of layouts."""
    case = random_case(batch, sharing, groups, heads, (height, width), kernel, dtype)
    case = [channels_last(t) if layout else t for t, layout in zip(case, layouts)]
    x, weight, grad = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_form, 'slab_elements', lambda device: slab)
        found = (torch_form.aggregate(x, weight, kernel, dilation),
                 *torch_form.aggregate_backward(grad, x, weight, kernel, dilation))
    assert_close(found, exact(*case, kernel, dilation), dtype)
    assert torch_form.is_channels_last(found[0]) == torch_form.is_channels_last(x)


class Storages(TorchDispatchMode):
    """Context that notes the memory behind every result: ``sizes`` is {address: bytes}."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, (tuple, list)) else (out, ):
            storage = item.untyped_storage()
            self.sizes[storage.data_ptr()] = max(
                storage.nbytes(), self.sizes.get(storage.data_ptr(), 0))
        return out


@pytest.mark.parametrize('layout', [torch.Tensor.contiguous, channels_last])
def test_temporaries_are_the_size_of_a_slab(layout, monkeypatch):
    """Inside the operator, where no probe around the public function can look."""
    case = x, weight, grad = [*map(layout, random_case(2, 8, 4, 1, (60, 50), 3, torch.float32))]
    monkeypatch.setattr(torch_form, 'slab_elements', lambda device: x.numel() // 20)
    with Storages() as seen:
        kept = [*case, torch_form.aggregate(x, weight, 3, 1),
                *torch_form.aggregate_backward(grad, x, weight, 3, 1)]
    for tensor in kept:
        seen.sizes.pop(tensor.untyped_storage().data_ptr(), None)
    assert 0 < max(seen.sizes.values()) <= x.nbytes / 5


# ---------------------------------------------------------------- Triton

def check_triton_kernels():
    """Run in a process whose Triton interprets its kernels, see below."""
    from mmcontainer.ops import _local_aggregation_triton as triton_form
    cases = []
    for path in FIXTURES:
        values = {key: torch.from_numpy(value) for key, value in np.load(path).items()}
        window = int(values['kernel_size']), int(values['dilation'])
        cases.append((*(values[key] for key in ('input', 'weight', 'grad_output')), *window))
    torch.manual_seed(0)
    for groups, heads, size, dilation, dtype in (
            (3, 1, (20, 15), 2, torch.float32), (40, 1, (4, 3), 2, torch.float32),
            (2, 2, (5, 6), 1, torch.bfloat16), (2, 1, (1, 4), 3, torch.float16)):
        cases.append((*random_case(2, 3, groups, heads, size, 3, dtype), 3, dilation))
    for x, weight, grad, *window in cases:
        expected = exact(x, weight, grad, *window)
        # The interpreter takes its time. Groups come in blocks in channels_last only.
        layouts = torch.Tensor.contiguous, channels_last
        for layout in layouts[1:] if weight.shape[2] == 40 or window[0] == 5 else layouts:
            x, weight, grad = map(layout, (x, weight, grad))
            assert triton_form.fits(x, weight)
            found = (triton_form.aggregate(x, weight, *window),
                     *triton_form.aggregate_backward(grad, x, weight, *window))
            assert_close(found, expected, x.dtype)
            by_torch = (torch_form.aggregate(x, weight, *window),
                        *torch_form.aggregate_backward(grad, x, weight, *window))
            assert [t.stride() for t in found] == [t.stride() for t in by_torch]


@pytest.mark.slow
@needs_triton
def test_triton_kernels_in_the_interpreter():
    code = f'import {__name__.rsplit(".", 1)[-1]} as tests; tests.check_triton_kernels()'
    folders = os.pathsep.join([os.path.dirname(__file__), str(GOLDEN.parent)])
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True,
        env={**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': folders})
    assert done.returncode == 0, done.stderr[-3000:]


# ---------------------------------------------------------------- ONNX

class Aggregate(torch.nn.Module):
    def forward(self, x, weight):
        return local_aggregation(x, weight, 3, 2)


@pytest.mark.parametrize('dynamo', [pytest.param(True, marks=needs_export, id='dynamo'),
                                    pytest.param(False, id='torchscript')])
def test_onnx_runs_at_any_size(dynamo, tmp_path):
    """One file of standard operators, by both exporters, for any batch, height and width."""
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    model, path = Aggregate().eval(), str(tmp_path / 'model.onnx')
    axes = {'x': {0: 'batch', 2: 'height', 3: 'width'},
            'weight': {0: 'batch', 3: 'height', 4: 'width'}}
    if dynamo:
        sizes = {name: torch.export.Dim(name) for name in ('batch', 'height', 'width')}
        dynamic = dict(dynamic_shapes={key: {axis: sizes[name] for axis, name in named.items()}
                                       for key, named in axes.items()})
    else:
        dynamic = dict(dynamic_axes=axes)
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:  # not before PyTorch 2.5
        dynamic['dynamo'] = dynamo
    inputs = random_case(2, 4, 2, 1, (5, 6), 3, torch.float32)[:2]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the older exporter, about its age and constants
        torch.onnx.export(model, (inputs[0], inputs[1][:, 0]), path,
                          input_names=['x', 'weight'], **dynamic)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for batch, size in ((2, (5, 6)), (1, (9, 4)), (3, (1, 2))):
        x, weight, _ = random_case(batch, 4, 2, 1, size, 3, torch.float32)
        out, = session.run(None, {'x': x.numpy(), 'weight': weight[:, 0].numpy()})
        torch.testing.assert_close(torch.from_numpy(out), model(x, weight[:, 0]))


class Broken:
    @property
    def active(self):
        raise RuntimeError('Failed to find C compiler')


def test_where_triton_cannot_launch_pytorch_computes(monkeypatch):
    """It compiles a helper in C when the GPU is used for the first time."""
    triton = pytest.importorskip('triton')
    module = sys.modules['mmcontainer.ops.local_aggregation']
    monkeypatch.setattr(triton.runtime, 'driver', Broken())
    with pytest.warns(UserWarning, match='Triton does not work here.*Failed to find C compiler'):
        assert not module._has_triton_driver.__wrapped__()
