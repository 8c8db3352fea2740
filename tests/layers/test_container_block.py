"""The block and its parts: gradients, recomputation, bad arguments."""
import copy

import pytest
import torch

from mmcontainer.layers import ContainerBlock, ContextAggregation, PatchEmbed
from mmcontainer.ops import aggregate, attention_affinity, depthwise_affinity, mixed_affinity


@pytest.mark.parametrize('num_heads', [None, 2])
def test_aggregation_equals_equation_9(num_heads):
    torch.manual_seed(0)
    layer = ContextAggregation(8, kernel_size=3, num_heads=num_heads).double()
    layer.static.bias.data.zero_()  # the affinity matrix has no place for an offset
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    projected = layer.in_proj(x)
    affinity = depthwise_affinity(layer.static.weight, 3, 4)
    if num_heads:
        layer.mix_logit.data.fill_(0.7)
        query, key, projected = projected.chunk(3, dim=1)
        affinity = mixed_affinity(attention_affinity(query, key, 2), affinity, layer.alpha)
    torch.testing.assert_close(layer(x), layer.out_proj(aggregate(affinity, projected)))


@pytest.mark.parametrize('num_heads', [None, 2])
def test_gradients_equal_finite_differences(num_heads):
    torch.manual_seed(0)
    block = ContainerBlock(ContextAggregation(4, 3, num_heads), 4, mlp_ratio=2).double()
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    # In training mode the output depends on batch statistics only, so that repeated evaluation is
    # free of side effects. The parameters are perturbed in place by gradcheck.
    assert torch.autograd.gradcheck(
        lambda x, *parameters: block(x), (x, *block.parameters()), atol=1e-6)


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
    plain = ContainerBlock(ContextAggregation(16, num_heads=4), 16, drop_path_rate=drop_path_rate)
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
        ContextAggregation(8, kernel_size=4)
