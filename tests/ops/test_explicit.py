"""Every fast form of context aggregation equals its explicit affinity matrix."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor

from mmcontainer.ops import (
    aggregate,
    at_grid_size,
    attention_affinity,
    dense_aggregation,
    depthwise_affinity,
    depthwise_aggregation,
    local_affinity,
    local_aggregation,
    low_rank_aggregation,
    merge_heads,
    mix,
    mixed_affinity,
    resize_affinity,
    resize_map,
    self_attention,
    split_heads,
)

sizes = st.integers(1, 6)
# bfloat16 has 8 bits; its inputs are the same for both forms, but their roundings differ.
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.15}


def _random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def _assert_same_with_gradients(fast, explicit, inputs):
    """Compare both forms, and their gradients, relative to the size of what is compared."""
    upstream = torch.randn_like(fast)
    gradients = [torch.autograd.grad(out, inputs, upstream, retain_graph=True)
                 for out in (fast, explicit)]
    tolerance = TOLERANCES[fast.dtype]
    for found, expected in zip((fast, *gradients[0]), (explicit, *gradients[1])):
        assert found.dtype == expected.dtype
        found, expected = found.double(), expected.double()
        error = (found - expected).abs().max()
        assert error <= tolerance * (1 + expected.abs().max()), error


@settings(deadline=None, max_examples=30)
@given(height=sizes, width=sizes, heads=st.integers(1, 3), head_dim=st.integers(1, 5),
       kv_stride=st.integers(1, 4), dtype=dtypes)
def test_attention_equals_explicit_affinity(height, width, heads, head_dim, kv_stride, dtype):
    query, key, value = (_random(2, heads * head_dim, height, width, dtype=dtype)
                         for _ in range(3))
    fast = self_attention(query, key, value, heads, kv_stride)
    affinity = attention_affinity(query, key, heads, kv_stride)
    torch.testing.assert_close(affinity.double().sum(-1), torch.ones(affinity.shape[:-1]).double(),
                               rtol=0, atol=TOLERANCES[dtype])
    _assert_same_with_gradients(fast, aggregate(affinity, value), (query, key, value))


@settings(deadline=None, max_examples=30)
@given(height=sizes, width=sizes, heads=st.integers(1, 4), head_dim=st.integers(1, 3),
       kernel=st.sampled_from([1, 3, 5, 7]), dtype=dtypes)
def test_depthwise_equals_explicit_affinity(height, width, heads, head_dim, kernel, dtype):
    value = _random(2, heads * head_dim, height, width, dtype=dtype)
    weight = _random(heads, 1, kernel, kernel, dtype=dtype)
    fast = depthwise_aggregation(value, weight, head_dim=head_dim)
    explicit = aggregate(depthwise_affinity(weight, height, width), value)
    _assert_same_with_gradients(fast, explicit, (value, weight))


@settings(deadline=None, max_examples=30)
@given(height=sizes, width=sizes, groups=st.integers(1, 3), share=st.integers(1, 3),
       kernel=st.sampled_from([1, 3, 5]), dilation=st.integers(1, 2), dtype=dtypes)
def test_local_aggregation_equals_explicit_affinity(height, width, groups, share, kernel, dilation,
                                                    dtype):
    x = _random(2, share * groups, height, width, dtype=dtype)
    weight = _random(2, groups, kernel**2, height, width, dtype=dtype)
    fast = local_aggregation(x, weight, kernel, dilation)
    affinity = local_affinity(weight, kernel, dilation).repeat(1, share, 1, 1)  # c mod G
    _assert_same_with_gradients(fast, aggregate(affinity, x), (x, weight))


@settings(deadline=None, max_examples=30)
@given(grid=st.tuples(sizes, sizes), size=st.tuples(sizes, sizes), heads=st.integers(1, 3),
       rank=st.integers(0, 4), dtype=dtypes)
def test_resized_matrices_equal_explicit_affinity(grid, size, heads, rank, dtype):
    """Dense (rank 0) and low-rank matrices, at the size they were learned for and at others."""
    value = _random(2, 2 * heads, *size, dtype=dtype)
    positions = grid[0] * grid[1]
    if rank:
        weights = (_random(heads, positions, rank, dtype=dtype),
                   _random(heads, rank, positions, dtype=dtype))
        matrix, function = weights[0] @ weights[1], low_rank_aggregation
    else:
        weights = (_random(heads, positions, positions, dtype=dtype), )
        matrix, function = weights[0], dense_aggregation
    fast = at_grid_size(
        lambda x: merge_heads(function(split_heads(x, heads), *weights), *grid), value, grid)
    resized = resize_affinity(matrix, grid, size)
    _assert_same_with_gradients(fast, aggregate(resized, value), (value, *weights))
    # Every row keeps its sum, between the sums of the neighbouring rows.
    if dtype == torch.float64:
        sums = matrix.sum(-1).view(heads, 1, *grid)
        torch.testing.assert_close(resized.sum(-1), resize_map(sums, size).flatten(1))


@settings(deadline=None, max_examples=20)
@given(height=sizes, width=sizes, heads=st.integers(1, 3), static_heads=st.sampled_from([1, 2, 6]),
       dtype=st.sampled_from([torch.float64, torch.float32]))
def test_mixture_of_results_equals_result_of_mixed_affinity(height, width, heads, static_heads,
                                                            dtype):
    # Not in bfloat16: the gradient of alpha is one sum over everything, of which little is left.
    channels = 6
    query, key, value = (_random(2, channels, height, width, dtype=dtype) for _ in range(3))
    weight, logit = _random(heads * static_heads, 1, 5, 5, dtype=dtype), _random(1, dtype=dtype)
    head_dim = channels // (heads * static_heads)
    if head_dim * heads * static_heads != channels:
        return
    alpha = logit.sigmoid()
    dynamic = self_attention(query, key, value, heads)
    fast = mix(dynamic, depthwise_aggregation(value, weight, head_dim=head_dim), alpha)
    affinity = mixed_affinity(
        attention_affinity(query, key, heads), depthwise_affinity(weight, height, width), alpha)
    explicit = aggregate(affinity, value)
    _assert_same_with_gradients(fast, explicit, (query, key, value, weight, logit))


def test_mixture_takes_alpha_and_beta_and_any_pair_of_heads():
    dynamic, static = torch.rand(2, 4, 3, 3), torch.rand(2, 3, 3)
    alpha, beta = torch.tensor([0.3]), torch.tensor([2.])
    mixed = mixed_affinity(dynamic, static, alpha, beta)
    for head in range(4):  # dynamic heads 0 and 1 share the first static matrix
        torch.testing.assert_close(mixed[:, head], 0.3 * dynamic[:, head] + 2 * static[head // 2])


def test_resizing_a_matrix_keeps_what_it_means():
    grid, size = (4, 4), (9, 6)
    mean = torch.full((1, 16, 16), 1 / 16, dtype=torch.float64)
    resized = resize_affinity(mean, grid, size)
    torch.testing.assert_close(resized.sum(-1), torch.ones(1, 54, dtype=torch.float64))
    assert resized.min() > 0
    # The identity becomes a blur around each position: local, symmetric in the middle.
    blur = resize_affinity(torch.eye(16, dtype=torch.float64)[None], grid, (9, 9))[0, 40]
    torch.testing.assert_close(blur.view(9, 9), blur.view(9, 9).flip(0, 1))
    assert blur[40] > 0.9 * blur.max() > 0 and blur.view(9, 9)[0, 0] == 0
    torch.testing.assert_close(resize_affinity(mean, grid, grid), mean, rtol=0, atol=0)


@pytest.mark.parametrize('kv_stride', [1, 3])
def test_chosen_rows_equal_rows_of_the_whole_matrix(kv_stride):
    query, key = torch.randn(2, 2, 4, 5, 7).double()
    weight, positions = torch.randn(4, 1, 5, 5), torch.tensor([34, 3, 3])
    torch.testing.assert_close(attention_affinity(query, key, 2, kv_stride, positions),
                               attention_affinity(query, key, 2, kv_stride)[:, :, positions])
    torch.testing.assert_close(depthwise_affinity(weight, 5, 7, positions),
                               depthwise_affinity(weight, 5, 7)[:, positions])


def test_depthwise_affinity_of_a_known_kernel():
    weight = torch.arange(9.).view(1, 1, 3, 3)
    affinity = depthwise_affinity(weight, height=1, width=3)[0]
    # Only the middle row of the kernel (3, 4, 5) can touch a map of height 1.
    assert affinity.tolist() == [[4, 5, 0], [3, 4, 5], [0, 3, 4]]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_attention_never_builds_the_matrix(dtype):
    positions = 32 * 32
    inputs = [torch.randn(1, 64, 32, 32, dtype=dtype, requires_grad=True) for _ in range(3)]
    with LargestTensor() as mode:
        self_attention(*inputs, num_heads=2).sum().backward()
    assert 64 * positions <= mode.largest < positions**2
    with LargestTensor() as mode:  # the probe itself can see the matrix
        attention_affinity(inputs[0], inputs[1], 2)
    assert mode.largest == 2 * positions**2
