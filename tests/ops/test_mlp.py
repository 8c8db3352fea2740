"""The MLP in chunks gives the numbers and gradients of its three operators."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmcontainer.layers import ConvMlp
from mmcontainer.ops import pointwise_mlp
from mmcontainer.ops.mlp import chunks_of

CHANNELS, HIDDEN, OUT = 3, 7, 5
SIZES = [(1, 1, 1), (3, 4, 6), (1, 9, 5)]


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of two or three rows, the last one smaller."""
    monkeypatch.setattr('mmcontainer.ops.mlp.CHUNK_BYTES', 8 * HIDDEN * 12)


def _inputs(size, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    batch, height, width = size
    parts = (random(batch, CHANNELS, height, width), random(HIDDEN, CHANNELS, 1, 1),
             random(HIDDEN), random(OUT, HIDDEN, 1, 1), random(OUT))
    return [part.requires_grad_() for part in parts]


def _explicit(x, weight1, bias1, weight2, bias2):
    return F.conv2d(F.gelu(F.conv2d(x, weight1, bias1)), weight2, bias2)


@pytest.mark.parametrize('size', SIZES)
def test_equals_separate_operators(size, small_chunks):
    inputs = _inputs(size)
    assert size == (1, 1, 1) or len(list(chunks_of(inputs[0].contiguous(
        memory_format=torch.channels_last), HIDDEN))) > 1
    found, expected = pointwise_mlp(*inputs), _explicit(*inputs)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(expected)
    for gradients in zip(torch.autograd.grad(found, inputs, grad),
                         torch.autograd.grad(expected, inputs, grad)):
        torch.testing.assert_close(*gradients)


def test_finite_differences_of_both_orders(small_chunks):
    inputs = _inputs((2, 3, 4))
    assert torch.autograd.gradcheck(pointwise_mlp, inputs)
    assert torch.autograd.gradgradcheck(pointwise_mlp, inputs)


def test_gradients_of_shared_weights_can_be_differentiated():
    """The input of the second call depends on the weights that are its other inputs."""
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, 3, 3), (6, 4, 1, 1), (6, ), (4, 6, 1, 1), (4, )
    x, *weights = (torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
                   for shape in shapes)
    for create_graph in (False, True):
        out = pointwise_mlp(pointwise_mlp(x, *weights), *weights)
        grads = torch.autograd.grad(out.sin().sum(), weights, create_graph=create_graph)
        if not create_graph:
            expected = grads
    torch.testing.assert_close(grads, expected)


@pytest.mark.parametrize('needed', range(5))
def test_gradient_of_one_input_alone(needed, small_chunks):
    inputs = _inputs((2, 3, 4))
    for index, part in enumerate(inputs):
        part.requires_grad_(index == needed)
    found, expected = (torch.autograd.grad(function(*inputs).square().sum(), inputs[needed])[0]
                       for function in (pointwise_mlp, _explicit))
    torch.testing.assert_close(found, expected)


def test_autocast(small_chunks):
    inputs = _inputs((3, 4, 6), torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        out = pointwise_mlp(*inputs)
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().square().sum(), inputs)
    exact = torch.autograd.grad(_explicit(*inputs).square().sum(), inputs)
    for found, expected in zip(gradients, exact):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * expected.std().item())


def test_many_chunks_lose_nothing_in_half_precision(monkeypatch):
    # 4096 chunks of one row: summed up in bfloat16, the gradient would stop growing at 256.
    monkeypatch.setattr('mmcontainer.ops.mlp.CHUNK_BYTES', 2)
    inputs = [torch.ones(1, 1, 4096, 1), torch.ones(1, 1, 1, 1), torch.full((1, ), 9.),
              torch.ones(1, 1, 1, 1), torch.zeros(1)]
    inputs = [part.requires_grad_() for part in inputs]
    with torch.autocast('cpu', torch.bfloat16):
        pointwise_mlp(*inputs).float().sum().backward()
    assert [part.grad.sum().item() for part in inputs[1:]] == [4096, 4096, 40960, 4096]


class TestConvMlp:

    def test_trains_in_chunks(self, small_chunks, monkeypatch):
        mlp, x = ConvMlp(4, 2.).double(), torch.randn(2, 4, 5, 6, dtype=torch.float64)
        calls = []
        monkeypatch.setattr('mmcontainer.layers.mlp.pointwise_mlp',
                            lambda *args: calls.append(1) or pointwise_mlp(*args))
        found = mlp(x)
        assert calls
        with torch.no_grad():
            torch.testing.assert_close(found, mlp(x))
        assert len(calls) == 1, 'without gradients there is nothing to save'

    @pytest.mark.parametrize('change', ['hook', 'backward hook', 'adapter', 'relu', 'no bias'])
    def test_parts_of_the_user_are_called(self, change, monkeypatch):
        monkeypatch.setattr('mmcontainer.layers.mlp.pointwise_mlp', None)
        mlp, calls = ConvMlp(4, 2.), []
        if change == 'hook':
            mlp.act.register_forward_hook(lambda *args: calls.append(1))
        elif change == 'backward hook':
            mlp.fc2.register_full_backward_hook(lambda *args: calls.append(1))
        elif change == 'adapter':
            mlp.fc1 = nn.Sequential(mlp.fc1, nn.Identity())
            mlp.fc1.register_forward_hook(lambda *args: calls.append(1))
        elif change == 'relu':
            mlp.act = nn.ReLU()
        else:
            mlp.fc2 = nn.Conv2d(8, 4, 1, bias=False)
        mlp(torch.randn(1, 4, 3, 3, requires_grad=True)).sum().backward()
        assert calls or change in ('relu', 'no bias')

    def test_functional_transforms(self):
        mlp, x = ConvMlp(4, 2.), torch.randn(2, 4, 3, 3)

        def loss(parameters):
            return torch.func.functional_call(mlp, parameters, x).square().sum()

        parameters = dict(mlp.named_parameters())
        found = torch.func.grad(loss)({name: part.detach() for name, part in parameters.items()})
        expected = torch.autograd.grad(loss(parameters), list(parameters.values()))
        for gradients in zip(found.values(), expected):
            torch.testing.assert_close(*gradients)
