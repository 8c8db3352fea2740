"""The fused 1x1 convolution equals convolution, addition and activation one after the other."""
import pytest
import torch
import torch.nn.functional as F

from mmcontainer.layers.deployed import pointwise
from mmcontainer.layers.deployed.pointwise import fused_pointwise, pointwise_to_nchw

ACTIVATIONS = {None: lambda x: x, 'gelu': F.gelu, 'relu': F.relu}
FUSED = {torch.ops.mkldnn._convolution_pointwise, torch.ops.mkldnn._convolution_pointwise_,
         torch.ops.mkldnn._linear_pointwise}


class Operators(torch.utils._python_dispatch.TorchDispatchMode):
    """Collects the operators that are called."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.overloadpacket)
        return func(*args, **kwargs or {})


def _inputs(batch, height, width, dtype=torch.float32, memory_format=torch.channels_last):
    torch.manual_seed(0)
    x, out = (torch.randn(batch, channels, height, width).to(dtype).contiguous(
        memory_format=memory_format) for channels in (6, 10))
    return x, torch.randn(10, 6, 1, 1) / 2, torch.randn(10), out


def _explicit(x, weight, bias, activation, out):
    y = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double())
    return ACTIVATIONS[activation](y if out is None else out.double() + y)


@pytest.mark.parametrize('adds', [False, True])
@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('size', [(1, 1, 1), (2, 3, 1), (3, 5, 7), (1, 31, 40), (0, 3, 4)])
def test_equals_separate_operators(size, activation, adds):
    for memory_format in (torch.channels_last, torch.contiguous_format):
        x, weight, bias, out = _inputs(*size, memory_format=memory_format)
        before, out = x.clone(), out if adds else None
        for offset in (bias, None):
            target = out.clone() if adds else None
            expected = _explicit(x, weight, offset, activation, out).float()
            with torch.no_grad():
                found = fused_pointwise(x, weight, offset, activation, target)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert not adds or found.data_ptr() == target.data_ptr()
        assert torch.equal(x, before), 'the input was overwritten'


@pytest.mark.parametrize('size', [(3, 5, 7), (1, 31, 40)])
@pytest.mark.parametrize('adds', [False, True])
def test_autocast_computes_in_bfloat16(size, adds):
    x, weight, bias, out = _inputs(*size)
    expected = _explicit(x, weight, bias, 'gelu', out if adds else None)
    for dtype in (torch.float32, torch.bfloat16):
        target = out.to(dtype, copy=True) if adds else None
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            found = fused_pointwise(x.to(dtype), weight, bias, 'gelu', target)
        assert found.dtype == (dtype if adds else torch.bfloat16)
        torch.testing.assert_close(found.double(), expected, rtol=0.03, atol=0.03)


def test_autocast_leaves_float64_alone():
    x, weight, bias, _ = (tensor.double() for tensor in _inputs(1, 31, 40))
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        found = fused_pointwise(x, weight, bias)
    torch.testing.assert_close(found, _explicit(x, weight, bias, None, None))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='PyTorch without oneDNN')
def test_maps_in_channels_last_are_fused_and_others_are_not(monkeypatch):
    def operators(x, weight, bias, out, activation='relu'):
        with torch.no_grad(), Operators() as mode:
            fused_pointwise(x, weight, bias, activation, out)
        return mode.seen & FUSED

    large, small = _inputs(1, 31, 40), _inputs(1, 5, 7)
    assert operators(*large) == {torch.ops.mkldnn._convolution_pointwise_}
    assert operators(*large[:3], None) == {torch.ops.mkldnn._convolution_pointwise}
    assert operators(*small) == {torch.ops.mkldnn._linear_pointwise}
    assert not operators(*_inputs(1, 31, 40, memory_format=torch.contiguous_format))
    assert not operators(*(tensor.double() for tensor in large))
    with torch.backends.mkldnn.flags(enabled=False):
        assert not operators(*large)
    monkeypatch.setattr(pointwise, '_is_nhwc', lambda x: False)
    assert not operators(*large)


@pytest.mark.parametrize('size', [(3, 5, 7), (1, 31, 40)])
@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('adds', [False, True])
def test_nan_and_infinity_stay(size, activation, adds):
    """oneDNN's own ReLU would make zeros of them."""
    x, weight, bias, out = _inputs(*size)
    for value in (torch.nan, torch.inf):
        x[0, 2, 1, 1] = value
        expected = _explicit(x, weight, bias, activation, out if adds else None).float()
        with torch.no_grad():
            found = fused_pointwise(x, weight, bias, activation, out.clone() if adds else None)
        finite = expected.isfinite()
        assert torch.equal(found.isfinite(), finite) and not finite.all()
        torch.testing.assert_close(found[finite], expected[finite], rtol=1e-5, atol=1e-5)


def test_gradients_take_the_separate_operators():
    x, weight, bias, _ = _inputs(1, 31, 40)
    weight.requires_grad_()
    fused_pointwise(x, weight, bias).sum().backward()
    expected = x.sum((0, 2, 3)).expand(10, 6)
    torch.testing.assert_close(weight.grad[:, :, 0, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('batch', [1, 3])
def test_nchw_result_of_maps_in_any_format(batch):
    for memory_format in (torch.channels_last, torch.contiguous_format):
        x, weight, bias, _ = _inputs(batch, 5, 7, memory_format=memory_format)
        for offset in (bias, None):
            found = pointwise_to_nchw(x, weight, offset)
            assert found.is_contiguous()
            torch.testing.assert_close(
                found, _explicit(x, weight, offset, None, None).float(), rtol=1e-5, atol=1e-5)
            with torch.autocast('cpu', torch.bfloat16):
                assert pointwise_to_nchw(x, weight, offset).dtype == torch.bfloat16
