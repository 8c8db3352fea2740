"""Packed convolutions equal convolution, addition and activation one after the other."""
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_versions import needs_compile, needs_torch

from mmcontainer.layers import DepthwiseConv2d
from mmcontainer.layers.deployed import packed
from mmcontainer.layers.deployed.packed import KEPT_SIZES, PackedConv2d
from mmcontainer.layers.deployed.pointwise import pointwise_to_nchw

ACTIVATIONS = {None: lambda x: x, 'gelu': F.gelu, 'relu': F.relu}
FUSED = {torch.ops.mkldnn._convolution_pointwise, torch.ops.mkldnn._convolution_pointwise_}
PACKING = torch.ops.mkldnn._reorder_convolution_weight
NEEDS_ONEDNN = pytest.mark.skipif(not torch.backends.mkldnn.is_available(),
                                  reason='PyTorch without oneDNN')


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


def _conv(weight, bias=None):
    conv = nn.Conv2d(*weight.shape[1::-1], 1, bias=bias is not None)
    conv.weight, conv.bias = (part if part is None else nn.Parameter(part.detach().clone())
                              for part in (weight, bias))
    return PackedConv2d(conv.requires_grad_(weight.requires_grad))


def fused_pointwise(x, weight, bias=None, activation=None, out=None):
    """The second call, which finds its weights packed; the first and the third give the same."""
    conv = _conv(weight, bias)
    found = [conv.fused(x, activation, target) for target in
             (None if out is None else out.clone(), out, None if out is None else out.clone())
             ][:3 if out is None else 2]
    for other in found:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0, equal_nan=True)
    return found[1]


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


@NEEDS_ONEDNN
def test_maps_in_channels_last_are_fused_and_others_are_not(monkeypatch):
    def operators(x, weight, bias, out, activation='relu'):
        with torch.no_grad(), Operators() as mode:
            fused_pointwise(x, weight, bias, activation, out)
        return mode.seen & FUSED

    large, small = _inputs(1, 31, 40), _inputs(1, 5, 7)
    assert operators(*large) == {torch.ops.mkldnn._convolution_pointwise_}
    assert operators(*large[:3], None) == {torch.ops.mkldnn._convolution_pointwise}
    assert operators(*small) == {torch.ops.mkldnn._convolution_pointwise_}
    assert not operators(*_inputs(1, 31, 40, memory_format=torch.contiguous_format))
    assert not operators(*(tensor.double() for tensor in large))
    with torch.backends.mkldnn.flags(enabled=False):
        assert not operators(*large)
    monkeypatch.setattr(packed, 'is_nhwc', lambda x: False)
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
    conv = _conv(weight.requires_grad_(), bias)
    conv(x).sum().backward()
    expected = x.sum((0, 2, 3)).expand(10, 6)
    torch.testing.assert_close(conv.weight.grad[:, :, 0, 0], expected, rtol=1e-4, atol=1e-4)


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


CONVS = {
    'patches': lambda: nn.Conv2d(8, 16, 2, stride=2),
    'grouped': lambda: nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False),
    'dilated': lambda: nn.Conv2d(8, 4, 3, padding=2, dilation=2),
    'depth-wise': lambda: DepthwiseConv2d(8, 5),
    'same': lambda: nn.Conv2d(8, 8, 3, padding='same'),
    'reflecting': lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode='reflect'),
}


def _map(height=6, width=4, dtype=torch.float32):
    x = torch.randn(2, 8, height, width, generator=torch.Generator().manual_seed(0))
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def _packings(conv, *maps):
    """How often weights are laid out during calls."""
    calls = []

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func.overloadpacket == PACKING)
            return func(*args, **kwargs or {})

    with torch.no_grad(), Mode():
        for x in maps:
            conv(x)
    return sum(calls)


@pytest.mark.parametrize('kind', CONVS)
def test_any_convolution(kind):
    conv = CONVS[kind]()
    replacement, x = PackedConv2d(conv), _map()
    assert dict(replacement.named_parameters()).keys() == dict(conv.named_parameters()).keys()
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(replacement(x), conv(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(replacement(x), conv(x))  # with gradients


@needs_compile
@torch.no_grad()
def test_compilers_see_a_convolution():
    conv, x = PackedConv2d(CONVS['patches']()), _map()
    compiled = torch.compile(conv, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), conv(x), rtol=1e-5, atol=1e-5)


@NEEDS_ONEDNN
class TestKeptWeights:

    def test_second_call_of_a_size_packs(self):
        conv = PackedConv2d(CONVS['patches']())
        counts = [_packings(conv, _map(*size)) for size in
                  ((6, 4), (6, 4), (6, 4), (4, 6), (6, 4), (4, 6), (4, 6))]
        assert counts == [0, 1, 0, 0, 0, 1, 0]

    def test_number_of_sizes_is_bounded(self):
        conv = PackedConv2d(CONVS['patches']())
        for height in range(2, 30):
            _packings(conv, _map(height), _map(height))
        assert len(conv._kept) == KEPT_SIZES
        assert _packings(conv, _map(29), _map(28), _map(2)) == 0, 'the latest are kept'

    @pytest.mark.parametrize('change', [
        'load', 'in place', 'data', 'replaced', 'moved',
        pytest.param('fused', marks=needs_torch('2.4.0', 'a fused optimizer on a CPU'))])
    def test_changed_parameters_count(self, change):
        conv, x = PackedConv2d(CONVS['patches']()), _map()
        _packings(conv, x, x, x)
        other = CONVS['patches']()
        with torch.no_grad():
            if change == 'load':
                conv.load_state_dict(other.state_dict())
            elif change == 'in place':
                conv.weight.mul_(2)
                conv.bias.add_(1)
            elif change == 'data':
                conv.weight.data = other.weight.data
            elif change == 'replaced':
                for _ in range(3):  # freed memory is taken again at once
                    conv.weight = nn.Parameter(torch.randn_like(conv.weight))
            elif change == 'fused':  # an optimizer that leaves no note in the tensor
                with torch.enable_grad():
                    conv(x).sum().backward()
                torch.optim.SGD(conv.parameters(), 1., fused=True).step()
            else:
                conv.double().float()
                assert not conv._kept
            expected = F.conv2d(x, conv.weight, conv.bias, 2)
            for _ in range(3):
                torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)

    def test_copies_and_pickles_hold_nothing(self):
        conv, x = PackedConv2d(CONVS['patches']()), _map()
        _packings(conv, x, x)
        for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
            assert [kept.value for kept in other._kept.values()] == [None]
            with torch.no_grad():
                torch.testing.assert_close(other(x), conv(x))
                other.weight.zero_()
                other.bias.zero_()
                assert not other(x).any() and conv(x).any()
        assert set(conv.state_dict()) == {'weight', 'bias'}

    def test_autocast_keeps_rounded_weights_apart(self):
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            pytest.skip('this CPU has no fast bfloat16')
        conv, x = PackedConv2d(CONVS['patches']()), _map()
        with torch.autocast('cpu', torch.bfloat16):
            assert _packings(conv, x, x, x) == 1
        assert _packings(conv, x, x, x) == 1
        assert {kept.value[0].dtype for kept in conv._kept.values()} == {torch.float32,
                                                                       torch.bfloat16}

    def test_inference_mode(self):
        with torch.inference_mode():
            inside = PackedConv2d(CONVS['patches']())
        outside, x = PackedConv2d(CONVS['patches']()), _map()
        for conv in (inside, outside):
            with torch.inference_mode():
                for _ in range(3):
                    torch.testing.assert_close(
                        conv(x), F.conv2d(x, conv.weight, conv.bias, 2), rtol=1e-5, atol=1e-5)

    def test_threads_share_it(self):
        conv = PackedConv2d(CONVS['patches']())
        maps = [_map(height) for height in range(2, 12)]
        with torch.no_grad():
            expected = [F.conv2d(x, conv.weight, conv.bias, 2) for x in maps]

        @torch.no_grad()
        def work(shift):
            for turn in range(50):
                index = (turn // 2 + shift) % len(maps)
                torch.testing.assert_close(conv(maps[index]), expected[index], rtol=1e-5, atol=1e-5)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
