"""Resizing equals PyTorch's, where PyTorch's is right."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_versions import float16

from mmcontainer.ops import resize_map

sizes = st.tuples(st.integers(2, 40), st.integers(2, 40))


@settings(deadline=None, max_examples=60)
@given(old=sizes, new=sizes)
def test_equals_antialiased_interpolation(old, new):
    x = torch.randn(2, 3, *old, dtype=torch.float64)
    expected = F.interpolate(x, new, mode='bilinear', antialias=True)
    torch.testing.assert_close(resize_map(x, new), expected)


@settings(deadline=None, max_examples=40)
@given(old=st.integers(1, 40), new=st.integers(1, 40))
def test_equals_plain_interpolation_where_nothing_shrinks(old, new):
    old, new = sorted((old, new))
    x = torch.randn(1, 2, old, 1, dtype=torch.float64)
    expected = F.interpolate(x, (new, 3), mode='bilinear', align_corners=False)
    torch.testing.assert_close(resize_map(x, (new, 3)), expected)


def test_one_column_of_a_growing_map():
    # Where F.interpolate(antialias=True) of PyTorch 2.12 repeats the first row.
    x = torch.tensor([[1., 3.], [5., 7.]]).view(1, 1, 2, 2)
    assert resize_map(x, (3, 1)).flatten().tolist() == [2, 4, 6]


@pytest.mark.parametrize('dtype', [torch.bfloat16, float16])
def test_half_precision_keeps_its_dtype(dtype):
    x = torch.randn(1, 2, 50, 60).to(dtype)
    out = resize_map(x, (14, 83))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), resize_map(x.float(), (14, 83)), rtol=0, atol=0.03)


def test_trace_generalises_to_the_original_size():
    traced = torch.jit.trace(lambda x: resize_map(x, (4, 5)), torch.randn(1, 2, 9, 7))
    for size in ((4, 5), (3, 11)):
        x = torch.randn(1, 2, *size)
        torch.testing.assert_close(traced(x), resize_map(x, (4, 5)))
