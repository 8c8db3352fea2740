"""Every fast form of context aggregation equals its explicit affinity matrix."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mmcontainer.ops import (
    aggregate,
    attention_affinity,
    depthwise_affinity,
    depthwise_aggregation,
    mix,
    mixed_affinity,
    self_attention,
)

sizes = st.integers(1, 6)


def _random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def _assert_same_with_gradients(fast, explicit, inputs):
    upstream = torch.randn_like(fast)
    gradients = [torch.autograd.grad(out, inputs, upstream, retain_graph=True)
                 for out in (fast, explicit)]
    torch.testing.assert_close(fast, explicit, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@settings(deadline=None, max_examples=25)
@given(height=sizes, width=sizes, heads=st.integers(1, 3), head_dim=st.integers(1, 5))
def test_attention_equals_explicit_affinity(height, width, heads, head_dim):
    query, key, value = (_random(2, heads * head_dim, height, width) for _ in range(3))
    fast = self_attention(query, key, value, heads)
    explicit = aggregate(attention_affinity(query, key, heads), value)
    _assert_same_with_gradients(fast, explicit, (query, key, value))


@settings(deadline=None, max_examples=25)
@given(height=sizes, width=sizes, channels=st.integers(1, 4), kernel=st.sampled_from([1, 3, 5, 7]))
def test_depthwise_equals_explicit_affinity(height, width, channels, kernel):
    value, weight = _random(2, channels, height, width), _random(channels, 1, kernel, kernel)
    fast = depthwise_aggregation(value, weight)
    explicit = aggregate(depthwise_affinity(weight, height, width), value)
    _assert_same_with_gradients(fast, explicit, (value, weight))


@settings(deadline=None, max_examples=15)
@given(height=sizes, width=sizes, heads=st.integers(1, 3))
def test_mixture_of_results_equals_result_of_mixed_affinity(height, width, heads):
    channels = 2 * heads
    query, key, value = (_random(2, channels, height, width) for _ in range(3))
    weight, logit = _random(channels, 1, 5, 5), _random(1)
    alpha = logit.sigmoid()
    dynamic = self_attention(query, key, value, heads)
    fast = mix(dynamic, depthwise_aggregation(value, weight), alpha)
    affinity = mixed_affinity(
        attention_affinity(query, key, heads), depthwise_affinity(weight, height, width), alpha)
    explicit = aggregate(affinity, value)
    _assert_same_with_gradients(fast, explicit, (query, key, value, weight, logit))


def test_depthwise_affinity_of_a_known_kernel():
    weight = torch.arange(9.).view(1, 1, 3, 3)
    affinity = depthwise_affinity(weight, height=1, width=3)[0]
    # Only the middle row of the kernel (3, 4, 5) can touch a map of height 1.
    assert affinity.tolist() == [[4, 5, 0], [3, 4, 5], [0, 3, 4]]


class _LargestTensor(TorchDispatchMode):
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, (tuple, list)) else (out, ):
            if isinstance(item, torch.Tensor):
                self.largest = max(self.largest, item.numel())
        return out


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_attention_never_builds_the_matrix(dtype):
    positions = 32 * 32
    inputs = [torch.randn(1, 64, 32, 32, dtype=dtype, requires_grad=True) for _ in range(3)]
    with _LargestTensor() as mode:
        self_attention(*inputs, num_heads=2).sum().backward()
    assert 64 * positions <= mode.largest < positions**2
    with _LargestTensor() as mode:  # the probe itself can see the matrix
        attention_affinity(inputs[0], inputs[1], 2)
    assert mode.largest == 2 * positions**2
