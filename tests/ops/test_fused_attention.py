"""Attention that trains in bfloat16 on a CPU: the type it computes in, and its numbers."""
import pytest
import torch
import torch.nn.functional as F

from mmcontainer.layers.token_attention import TokenAttention
from mmcontainer.ops import biased_attention, fused_attention, self_attention
from mmcontainer.ops.precision import computing_dtype


def _inputs(tokens=5, dtype=torch.bfloat16):
    torch.manual_seed(0)
    return [torch.randn(2, 3, tokens, 4, dtype=dtype).requires_grad_() for _ in range(3)]


@pytest.fixture
def types(monkeypatch):
    """The types in which PyTorch's fused attention computes, of all tensors it is given."""
    found, original = [], F.scaled_dot_product_attention

    def attend(*args, **kwargs):
        found.append({computing_dtype(arg) for arg in args if isinstance(arg, torch.Tensor)})
        return original(*args, **kwargs)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', attend)
    return found


@pytest.mark.parametrize('bias', [None, torch.tensor([[0., 1, 2, 3, -torch.inf]])])
def test_bfloat16_rounds_the_result_alone(bias):
    half = _inputs()
    single = [t.detach().float().requires_grad_() for t in half]
    bias = bias if bias is None else bias.bfloat16()
    expected = F.scaled_dot_product_attention(*single, bias if bias is None else bias.float())
    out = fused_attention(*half, bias)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected.bfloat16())
    upstream = torch.randn_like(out)
    for a, b in zip(torch.autograd.grad(out, half, upstream),
                    torch.autograd.grad(expected, single, upstream.float())):
        assert torch.equal(a, b.bfloat16())


def test_autocast_gives_its_type(types):
    with torch.autocast('cpu', torch.bfloat16):
        out = fused_attention(*_inputs(dtype=torch.float32))
    assert out.dtype == torch.bfloat16
    assert types == [{torch.float32}]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_other_types_stay(types, dtype):
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.float64):
        assert fused_attention(*_inputs(dtype=dtype)).dtype == dtype
    assert types == [{dtype}]


def test_inference_stays_bfloat16(types):
    with torch.no_grad():
        fused_attention(*_inputs())
    assert types == [{torch.bfloat16}]


def test_many_positions_stay_bfloat16(types):
    fused_attention(*_inputs(tokens=513))
    fused_attention(*_inputs(tokens=512))
    assert types == [{torch.bfloat16}, {torch.float32}]


def test_torch_func_gets_one_plain_operator(types):
    torch.func.vmap(fused_attention)(*(t.detach() for t in _inputs()))
    assert types == [{torch.bfloat16}]


@pytest.mark.parametrize('module', [
    lambda x: self_attention(x, x, x, 2),
    lambda x: biased_attention(*3 * [x.flatten(2)[:, None]], bias=torch.zeros(4, 4)),
    lambda x: TokenAttention(64, 2)(x.flatten(2), (1, 3))], ids=['Container', 'CoAtNet', 'PAM'])
def test_who_uses_it(types, module):
    with torch.autocast('cpu', torch.bfloat16):
        module(torch.randn(2, 4, 8, 8, requires_grad=True))
    assert types == [{torch.float32}]
