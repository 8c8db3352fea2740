"""Backbones, plain and deployed, called as any module may be: torch.func, empty batches."""
import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch_versions import needs_torch

from mmcontainer.backbones import CoAtNet, Container, CoTNet
from mmcontainer.layers import ContainerBlock, CotBlock

needs_vmap = needs_torch('2.5.0', 'vmap of fused attention')
ARCHS = {
    Container: dict(Container.arch_settings['light'], embed_dims=(8, 16, 16, 32),
                    depths=(1, 1, 1, 1)),
    CoTNet: dict(CoTNet.arch_settings['cotnet-50'], embed_dims=(32, 64, 64, 64),
                 widths=(16, 16, 16, 16), depths=(2, 1, 1, 1)),
    CoAtNet: dict(stem_width=8, embed_dims=(16, 32, 32, 32), depths=(1, 1, 1, 1)),
}


@pytest.fixture(params=ARCHS, ids=lambda cls: cls.__name__)
def plain(request):
    """A backbone in evaluation mode whose norms do something."""
    torch.manual_seed(0)
    model = request.param(arch=ARCHS[request.param])
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.weight, 1, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(params=['plain', 'deployed'])
def model(plain, request):
    return plain if request.param == 'plain' else copy.deepcopy(plain).switch_to_deploy()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 48)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.std().item())


@needs_vmap
@torch.no_grad()
def test_vmap(model, images):
    found = vmap(lambda image: model(image[None])[-1][0])(images)
    assert_close(found, model(images)[-1])


@needs_vmap
@torch.no_grad()
def test_ensemble(model, images):
    other = copy.deepcopy(model)
    for weight in other.parameters():
        weight.mul_(1.01)
    stacked = stack_module_state([model, other])
    found = vmap(lambda *state: functional_call(model, state, images)[-1])(*stacked)
    for one, expected in zip(found, (model, other)):
        assert_close(one, expected(images)[-1])


@needs_vmap
def test_gradients_of_every_image(plain, images):
    weights = dict(plain.named_parameters())

    def loss(weights, image):
        return functional_call(plain, weights, (image[None], ))[-1].square().mean()

    found = vmap(grad(loss), in_dims=(None, 0))(
        {name: weight.detach() for name, weight in weights.items()}, images)
    for index, image in enumerate(images):
        expected = torch.autograd.grad(loss(weights, image), list(weights.values()))
        for one, other in zip(found.values(), expected):
            assert (one[index] - other).abs().max() <= 1e-3 * other.abs().max() + 1e-7


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0, 1)])
def test_empty_batch(model, images, out_indices):
    model.out_indices = out_indices
    with torch.no_grad():
        expected, found = model(images), model(images[:0])
    assert [out.shape[1:] for out in found] == [out.shape[1:] for out in expected]
    assert {len(out) for out in found} == {0}


def test_empty_batch_has_gradients(plain, images):
    x = images[:0].requires_grad_()
    sum(out.sum() for out in plain(x)).backward()
    assert x.grad.shape == x.shape


def test_deployed_in_inference_mode(plain, images):
    expected = plain(images)
    with torch.inference_mode():
        plain.switch_to_deploy()
    for out, other in zip(plain(images), expected):
        assert_close(out, other)


def test_what_replaces_drop_path_is_called(plain, images):
    class Halve(nn.Module):
        def forward(self, x):
            return x / 2

    for block in plain.modules():
        if hasattr(block, 'drop_path'):
            block.drop_path = Halve()
    with torch.no_grad():
        expected = plain(images)[-1]
        assert_close(plain.switch_to_deploy()(images)[-1], expected)


@pytest.mark.parametrize('kind', [ContainerBlock, CotBlock])
def test_hooks_on_drop_path_fire(plain, images, kind):
    blocks, calls = [block for block in plain.modules() if type(block) is kind], []
    for block in blocks:
        block.drop_path.register_forward_hook(lambda *args: calls.append(1))
    plain.switch_to_deploy()(images)
    times = 2 if kind is ContainerBlock else 1  # both of its residuals
    assert len(calls) == times * len(blocks)
