"""Channels that fit, and --compile: the backbone alone, under the same names."""
import shutil

import pytest
import torch
from torch import nn
from torch_versions import needs_compile

from mmcontainer.backbones import Container
from mmcontainer.cli.models import check_channels, compile_backbone
from mmcontainer.errors import UserError

# One block with both affinities: compiling is slow on a CPU.
ARCH = dict(embed_dims=(8, ), depths=(1, ), mlp_ratios=(2, ), patch_sizes=(4, ), num_heads=(2, ),
            static=dict(kind='depthwise', kernel_size=5))


def make_model(**children):
    model = nn.Module()
    for name, child in children.items():
        model.add_module(name, child)
    return model


@needs_compile
@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='needs g++')
def test_compiled_backbone_trains_alike():
    torch.manual_seed(0)
    plain = Container(ARCH, out_indices=(0, )).train()
    compiled = Container(ARCH, out_indices=(0, )).train()
    compiled.load_state_dict(plain.state_dict())
    compile_backbone(make_model(backbone=compiled))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for size in ((64, 96), (72, 128)):
        x = torch.rand(2, 3, *size)
        outs = [model(x) for model in (plain, compiled)]
        torch.testing.assert_close(outs[1], outs[0], rtol=1e-4, atol=1e-4)
        for out in outs:
            sum(level.square().mean() for level in out).backward()
    gradients = {name: parameter.grad for name, parameter in compiled.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4, msg=name)


@needs_compile
def test_what_cannot_be_compiled(monkeypatch):
    with pytest.raises(UserError, match='has none'):
        compile_backbone(make_model(neck=nn.Identity()))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(shutil, 'which', lambda _: None)
    with pytest.raises(UserError, match='C[+][+] compiler'):
        compile_backbone(make_model(backbone=nn.Identity()))


class Taker(nn.Module):
    """A neck or head that says what it expects."""

    def __init__(self, in_channels, **more):
        super().__init__()
        vars(self).update(in_channels=in_channels, **more)


@pytest.mark.parametrize('children', [
    dict(), dict(neck=Taker([64, 128, 320, 512])), dict(neck=nn.Identity()), dict(neck=None),
    # A neck comes before the heads, which then have other channels.
    dict(neck=Taker((64, 128, 320, 512)), decode_head=Taker([256], in_index=[0])),
    dict(decode_head=Taker(320, in_index=2)), dict(decode_head=Taker(512, in_index=-1)),
    dict(decode_head=Taker(384, in_index=[1, 2]))])
def test_channels_that_fit(children):
    backbone = Container('light', init_cfg=None)
    check_channels(make_model(backbone=backbone, **children))


@pytest.mark.parametrize('children, text', [
    (dict(neck=Taker([64, 128, 320])), r'model.neck.in_channels is \[64, 128, 320\]'),
    (dict(neck=Taker([256, 512, 1024, 2048])), r'4 maps of \[64, 128, 320, 512\] channels'),
    (dict(decode_head=Taker(320, in_index=1)), r'is \[320\] for the maps in_index=\[1\]'),
    (dict(decode_head=Taker([64, 512], in_index=[0, 4])), r'in_index=\[0, 4\]'),
    (dict(auxiliary_head=nn.ModuleList([Taker(64, in_index=0), Taker(64, in_index=1)])),
     r'auxiliary_head.in_channels is \[64\]')])
def test_channels_that_do_not_fit(children, text):
    with pytest.raises(UserError, match=text):
        check_channels(make_model(backbone=Container('light', init_cfg=None), **children))
