"""Attention to groups of keys, each with a softmax and a Gaussian of its own."""
import pytest
import torch
from largest_tensor import LargestTensor

from mmcontainer.ops import multi_scale_gaussian_affinity, multi_scale_gaussian_attention
from mmcontainer.ops.modulated_attention import FORMS

SIZES = ((4, 6), (4, 6), (2, 3), (1, 2))
SMOOTHS = (16., 16., 8., 4.)


def make_inputs(sizes=SIZES, scales=2, queries=7, batch=2, heads=2, channels=5):
    """query, key, value, point, scale and weights of groups, in float64."""
    torch.manual_seed(0)
    keys = sum(height * width for height, width in sizes)
    tokens = [torch.randn(batch, heads, number, channels, dtype=torch.float64)
              for number in (queries, keys, keys)]
    point = torch.stack([torch.rand(batch, heads, queries, 2, dtype=torch.float64)
                         * torch.tensor([width, height]) for height, width in sizes])
    scale = None
    if scales is not None:
        scale = 1 + 0.3 * torch.randn(len(sizes), batch, heads, queries, scales).double()
    weight = torch.randn(batch, queries, len(sizes), dtype=torch.float64).softmax(-1)
    return *tokens, point, scale, weight


def make_mask(sizes=SIZES, batch=2):
    """Padding in the last columns of the second image, never at the first cell."""
    parts = []
    for height, width in sizes:
        padding = torch.zeros(batch, height, width, dtype=torch.bool)
        padding[1:, :, -1] = True
        parts.append(padding.flatten(1))
    return torch.cat(parts, dim=1)


def test_explicit_affinity_is_the_formula():
    query, key, _, point, scale, weight = make_inputs()
    mask = make_mask()
    assert mask[1].sum() == 4 + 4 + 2 + 1 and not mask[0].any()
    found = multi_scale_gaussian_affinity(query, key, point, scale, weight, SIZES, SMOOTHS, mask)
    image, head, number, start = 1, 1, 3, 0
    for group, ((height, width), smooth) in enumerate(zip(SIZES, SMOOTHS)):
        x, y = point[group, image, head, number].tolist()
        s_x, s_y = scale[group, image, head, number].tolist()
        logits = []
        for j, (row, column) in enumerate((r, c) for r in range(height) for c in range(width)):
            logit = (query[image, head, number] @ key[image, head, start + j]).item() / 5**0.5
            logit -= (s_x**2 * (x - column)**2 + s_y**2 * (y - row)**2) / smooth
            logits.append(-float('inf') if mask[image, start + j] else logit)
        expected = torch.tensor(logits).double().softmax(0) * weight[image, number, group]
        end = start + height * width
        torch.testing.assert_close(found[image, head, number, start:end], expected)
        start = end
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, 7).double())


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('scales', [None, 2, 3])
@pytest.mark.parametrize('padded', [False, True])
def test_all_forms_equal_the_explicit_affinity(form, scales, padded):
    """Output and all gradients."""
    if form == 'fold' and scales == 3:
        return  # does not fold
    inputs = [t if t is None else t.requires_grad_() for t in make_inputs(scales=scales)]
    leaves = [t for t in inputs if t is not None]
    query, key, value, *place = inputs
    mask = make_mask() if padded else None
    explicit = multi_scale_gaussian_affinity(query, key, *place, SIZES, SMOOTHS, mask) @ value
    out = multi_scale_gaussian_attention(*inputs, SIZES, SMOOTHS, mask, form=form)
    torch.testing.assert_close(out, explicit, rtol=1e-9, atol=1e-10)
    upstream = torch.randn(out.shape, dtype=out.dtype)
    for found, expected in zip(*(torch.autograd.grad(one, leaves, upstream)
                                 for one in (out, explicit))):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_no_affinity_is_built():
    sizes = ((25, 42), (25, 42), (12, 21), (6, 10))
    inputs = [t.float().requires_grad_() for t in make_inputs(sizes, queries=300, channels=32)]
    with LargestTensor() as probe:
        multi_scale_gaussian_attention(*inputs, sizes, SMOOTHS).sum().backward()
    largest_group = 2 * 2 * 25 * 42
    # The keys of all groups, or those of one with the Gaussian's features.
    assert probe.largest <= max(2 * 2 * sum(h * w for h, w in sizes) * 32, largest_group * 48)
    assert probe.largest < largest_group * 300 / 3


def test_half_precision_sums_in_float32():
    inputs = make_inputs()
    exact = multi_scale_gaussian_attention(*inputs, SIZES, SMOOTHS, form='explicit')
    few_bits = [t.bfloat16() for t in inputs[:3]]
    reference = multi_scale_gaussian_attention(
        *(t.double() for t in few_bits), *inputs[3:], SIZES, SMOOTHS)
    out = multi_scale_gaussian_attention(*few_bits, *inputs[3:], SIZES, SMOOTHS)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), reference, rtol=2**-8, atol=1e-4)
    torch.testing.assert_close(out.double(), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(('change', 'message'), [
    (dict(grid_sizes=SIZES[:3]), 'have 54 keys together, found 56'),
    (dict(smooths=SMOOTHS[:3]), 'smooths is of 3 groups, grid_sizes of 4'),
    (dict(point=torch.zeros(3, 2, 2, 7, 2)), 'point is of 3 groups'),
    (dict(scale=torch.ones(5, 2, 2, 7, 2)), 'scale is of 5 groups'),
    (dict(group_weight=torch.ones(2, 7, 3)), 'group_weight is of 3 groups'),
    (dict(group_weight=torch.ones(2, 2, 4)), r'group_weight must have shape \(2, 7, 4\)')])
def test_wrong_arguments_are_named(change, message):
    names = ('query', 'key', 'value', 'point', 'scale', 'group_weight')
    arguments = dict(zip(names, make_inputs()), grid_sizes=SIZES, smooths=SMOOTHS)
    with pytest.raises(ValueError, match=message):
        multi_scale_gaussian_attention(**{**arguments, **change})
