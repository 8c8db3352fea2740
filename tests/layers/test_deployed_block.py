"""The Container block for inference: the numbers of the plain form, in place and in chunks."""
import copy

import pytest
import torch
from largest_tensor import LargestTensor
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontainer.layers import ContainerBlock, ContextAggregation, DepthwiseAffinity
from mmcontainer.layers.deployed import container, deploy
from mmcontainer.ops.mlp import CHUNK_BYTES


def _block(**kwargs):
    torch.manual_seed(0)
    block = ContainerBlock(ContextAggregation(8, static=DepthwiseAffinity(8, 5)), 8, **kwargs)
    for norm in (block.norm1, block.norm2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return block.eval()


def _deployed(block):
    holder = nn.ModuleList([copy.deepcopy(block)])
    deploy(holder)
    return holder[0].eval()


def _image(height=12, width=11, batch=1):
    x = torch.randn(batch, 8, height, width)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('conv_pos_embed', [False, True])
@pytest.mark.parametrize('size', [(13, 9, 2), (3, 4, 5)])
def test_equals_the_plain_form(monkeypatch, size, conv_pos_embed):
    monkeypatch.setattr('mmcontainer.ops.mlp.CHUNK_BYTES', 8000)  # 6 rows of an image, or 2 images
    block = _block(conv_pos_embed=conv_pos_embed)
    deployed = _deployed(block)
    assert type(deployed) is container.DeployedContainerBlock
    assert not any(isinstance(module, _BatchNorm) for module in deployed.modules())
    for x in (_image(*size), _image(*size).contiguous()):
        before, expected = x.clone(), block(x).detach()
        torch.testing.assert_close(deployed(x), expected, rtol=1e-5, atol=1e-5)  # with gradients
        with torch.no_grad():
            found = deployed(x)
            with torch.autocast('cpu', torch.bfloat16):
                half = deployed(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.05)
        assert torch.equal(x, before), 'the input was overwritten'


def test_gradients_reach_the_input():
    block, x = _block(), _image().requires_grad_()
    expected = torch.autograd.grad(block(x).square().sum(), x)
    found = torch.autograd.grad(_deployed(block)(x).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_never_holds_the_hidden_map():
    block, x = _block(mlp_ratio=128), _image(128, 128)
    with torch.no_grad(), LargestTensor() as largest:
        _deployed(block)(x)
    assert 8 * 128 * 128 <= largest.largest <= CHUNK_BYTES // 4 < 128 * 8 * 128 * 128


@pytest.mark.parametrize('name', ['aggregation', 'mlp', 'norm1', 'norm2', 'pos_embed',
                                  'aggregation.in_proj', 'aggregation.static', 'mlp.fc1'])
@pytest.mark.parametrize('late', [False, True])
def test_hooks_see_what_they_see_without_deployment(name, late):
    block, x, seen = _block(), _image(), []

    def watch(block):
        block.get_submodule(name).register_forward_hook(
            lambda module, args, output: seen.append(output.detach().clone()))

    if late and name.startswith('norm'):
        pytest.skip('there are no norms to hook in a deployed block')
    expected = block(x).detach()
    deployed = _deployed(block) if late else block
    watch(deployed)
    deployed = deployed if late else _deployed(block)
    with torch.no_grad():
        torch.testing.assert_close(deployed(x), expected, rtol=1e-5, atol=1e-5)
    assert len(seen) == 1


def test_replaced_parts_are_called():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return super().forward(2 * x)

    block, x = _block(), _image()
    for name in ('aggregation.in_proj', 'mlp.fc1'):
        adapted = copy.deepcopy(block)
        parent, _, child = name.rpartition('.')
        conv = Doubled(8, adapted.get_submodule(name).out_channels, 1)
        setattr(adapted.get_submodule(parent), child, conv)
        deployed = _deployed(adapted)
        assert type(deployed) is ContainerBlock
        with torch.no_grad():
            torch.testing.assert_close(deployed(x), adapted(x))
    deployed = _deployed(block)
    deployed.aggregation.out_proj = Doubled(8, 8, 1)
    with torch.no_grad():
        found = deployed(x)
    torch.testing.assert_close(found, deployed(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('act', [nn.ReLU(), nn.Tanh(), nn.GELU('tanh')])
def test_another_activation_is_used(act):
    block, x = _block(), _image()
    block.mlp.act = act
    with torch.no_grad():
        torch.testing.assert_close(_deployed(block)(x), block(x), rtol=1e-5, atol=1e-5)


def test_norms_that_cannot_be_folded_stay():
    block = _block()
    block.norm1 = nn.GroupNorm(2, 8)
    deployed = _deployed(block)
    assert type(deployed) is ContainerBlock and type(deployed.mlp) is container.DeployedConvMlp
    x = _image()
    with torch.no_grad():
        torch.testing.assert_close(deployed(x), block(x), rtol=1e-5, atol=1e-5)
