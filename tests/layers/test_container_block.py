"""The block and its parts: gradients, recomputation, bad arguments."""
import copy

import pytest
import torch

from mmcontainer.layers import (
    ContainerBlock,
    ContextAggregation,
    DenseAffinity,
    DepthwiseAffinity,
    GroupedConvolution,
    LowRankAffinity,
    PatchEmbed,
    Stage,
    build_static_affinity,
)
from mmcontainer.ops import aggregate

STATIC = {
    'depthwise': lambda: DepthwiseAffinity(8, 3),
    'multi-head depthwise': lambda: DepthwiseAffinity(8, 3, num_heads=4),
    'dense': lambda: DenseAffinity(8, (3, 4)),
    'multi-head dense, resized': lambda: DenseAffinity(8, (4, 2), num_heads=2),
    'low-rank': lambda: LowRankAffinity(8, (3, 4), rank_ratio=0.5),
    'multi-head low-rank, resized': lambda: LowRankAffinity(8, (2, 5), 0.5, num_heads=4),
    'none': lambda: None,
}


def _build(static, num_heads, kv_stride=1):
    torch.manual_seed(0)
    layer = ContextAggregation(8, num_heads, STATIC[static](), kv_stride).double()
    for name, parameter in layer.named_parameters():
        if name == 'mix_logit':
            parameter.data.fill_(0.7)
        elif name == 'static.bias':
            parameter.data.zero_()  # an affinity matrix has no place for an offset
        elif name.startswith('static.'):
            parameter.data.normal_()
    return layer


@pytest.mark.parametrize('kv_stride', [1, 2])
@pytest.mark.parametrize(('static', 'num_heads'), [
    (static, heads) for static in STATIC for heads in (None, 2) if heads or static != 'none'])
def test_aggregation_equals_equation_9(static, num_heads, kv_stride):
    layer = _build(static, num_heads, kv_stride)
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    value = layer.in_proj(x).chunk(3 if num_heads else 1, dim=1)[-1]
    found = layer.affinities(x)
    torch.testing.assert_close(layer(x), layer.out_proj(aggregate(found.mixed, value)))
    if found.dynamic is not None and found.static is not None:
        dynamic, fixed = (aggregate(affinity, value) for affinity in found[:2])
        mixed = layer.alpha * dynamic + (1 - layer.alpha) * fixed
        torch.testing.assert_close(layer(x), layer.out_proj(mixed))
    positions = torch.tensor([11, 0, 5])
    for chosen, full in zip(layer.affinities(x, positions), found):
        assert full is None or chosen is None or chosen.shape[-2] == 3
        if full is not None:
            torch.testing.assert_close(chosen, full[..., positions, :])


def test_convolution_that_mixes_channels_has_no_affinity():
    layer = ContextAggregation(8, static=GroupedConvolution(8, 3, groups=4))
    x = torch.randn(2, 8, 3, 4)
    assert layer(x).shape == x.shape
    with pytest.raises(TypeError, match='GroupedConvolution mixes channels'):
        layer.affinities(x)


@pytest.mark.parametrize(('static', 'num_heads'), [
    ('depthwise', None), ('depthwise', 2), ('dense', 2), ('multi-head low-rank, resized', None)])
def test_gradients_equal_finite_differences(static, num_heads):
    torch.manual_seed(0)
    block = ContainerBlock(_build(static, num_heads), 8, mlp_ratio=1).double()
    x = torch.randn(2, 8, 3, 2, dtype=torch.float64, requires_grad=True)
    # In training mode the output depends on batch statistics only, so that repeated evaluation is
    # free of side effects. The parameters are perturbed in place by gradcheck.
    assert torch.autograd.gradcheck(
        lambda x, *parameters: block(x), (x, *block.parameters()), atol=1e-6, fast_mode=True)


def _saved_bytes(block, x):
    """Bytes that autograd keeps between forward and backward, parameters excluded."""
    parameters = {p.data_ptr() for p in block.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(x)
    return sum(kept.values()), out


@pytest.mark.parametrize('drop_path_rate', [0., 0.5])
def test_recomputation_keeps_gradients_and_statistics_and_saves_memory(drop_path_rate):
    torch.manual_seed(0)
    aggregation = ContextAggregation(16, num_heads=4, static=DepthwiseAffinity(16, 5))
    plain = Stage(ContainerBlock(aggregation, 16, drop_path_rate=drop_path_rate))
    recomputing = copy.deepcopy(plain)
    recomputing.with_cp = True
    results = []
    for block in (plain, recomputing):
        torch.manual_seed(1)  # the same drop-path mask
        x = torch.randn(8, 16, 12, 10, requires_grad=True)
        kept, out = _saved_bytes(block, x)
        out.square().sum().backward()
        gradients = [x.grad, *(p.grad for p in block.parameters())]
        results.append((kept, gradients, list(block.buffers())))
    (plain_bytes, gradients, buffers), (cp_bytes, cp_gradients, cp_buffers) = results
    assert cp_bytes < plain_bytes / 2
    torch.testing.assert_close(cp_gradients, gradients)
    # A norm inside of the recomputed part would update its statistics twice.
    torch.testing.assert_close(cp_buffers, buffers, rtol=0, atol=0)


def test_patch_embed_drops_partial_patches():
    layer = PatchEmbed(3, 8, patch_size=4)
    x = torch.randn(1, 3, 11, 15)
    out = layer(x)
    assert out.shape == (1, 8, 2, 3)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, layer(x[..., :8, :12]))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r'embed_dims \(10\) .* multiple of num_heads \(4\)'):
        ContextAggregation(10, num_heads=4)
    with pytest.raises(ValueError, match='kernel_size must be odd .* got 4'):
        DepthwiseAffinity(8, kernel_size=4)
    with pytest.raises(ValueError, match=r'embed_dims \(8\) .* multiple of num_heads \(3\)'):
        DenseAffinity(8, (2, 2), num_heads=3)
    with pytest.raises(ValueError, match='got neither'):
        ContextAggregation(8)
    with pytest.raises(ValueError, match="'depthwise', 'conv', 'dense' or 'low-rank'"):
        build_static_affinity('densé', 8, (2, 2))
