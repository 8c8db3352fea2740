"""CoAtNet: sizes of the paper, equality with timm, any image size, windows."""
from pathlib import Path

import pytest
import torch
from built import deterministic
from largest_tensor import LargestTensor
from mmengine.config import Config
from torch.nn.modules.batchnorm import _BatchNorm
from torch_versions import needs_torch

from mmcontainer.analysis.flops import count_flops
from mmcontainer.backbones import CoAtNet
from mmcontainer.checkpoints import (
    KeyMismatchError,
    convert,
    convert_back,
    get_source,
    load_backbone,
)
from mmcontainer.layers import RelativeAttention
from mmcontainer.layers.deployed.coatnet import DeployedRelativeAttention
from mmcontainer.paper import load_tables

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TIMM_PAPER = dict(downsample_in='depthwise', pool='avg2')
TIMM_RW = dict(downsample_in='pool', pool='avg2', act='silu', act_first=True, expand_input=True,
               gate_act='relu', conv_bias=False, expand_last=True)
COATNET_0 = CoAtNet.arch_settings['coatnet-0']
PEERS = {
    'coatnet_0_224': {**COATNET_0, **TIMM_PAPER},
    'coatnet_0_rw_224': {**COATNET_0, **TIMM_RW, 'depths': (2, 3, 7, 2), 'stem_hidden': 32,
                         'gate_early': True, 'shortcut_bias': False},
}
# Small and with two attention stages, for what needs no real size.
SMALL = dict(stem_width=8, embed_dims=(32, 32, 64, 64), depths=(1, 1, 2, 1), image_size=64)


def _randomise(model):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1)
        for parameter in module.parameters(recurse=False):
            if parameter.dim() == 1:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.double().eval()


@pytest.mark.parametrize('arch', CoAtNet.arch_settings)
def test_sizes_are_the_papers(arch):
    with torch.device('meta'):
        model = CoAtNet(arch, final_norm=True)
    count, width = count_flops(model, (1, 3, 224, 224)), model.arch['embed_dims'][-1]
    parameters = count.parameters + width * (width + 1) + 1000 * (width + 1)  # the classifier
    published = load_tables()['classification'][arch.replace('-', '_')]
    assert parameters / 1e6 == pytest.approx(published['params'], rel=0.02)
    if 'flops' in published:
        assert count.flops / 1e9 == pytest.approx(published['flops'], rel=0.02)


@pytest.mark.parametrize('name', PEERS)
def test_equal_to_timm_with_the_same_weights(name):
    timm = pytest.importorskip('timm')
    peer = _randomise(timm.create_model(name, pretrained=False, features_only=True))
    whole = timm.create_model(name, pretrained=False)  # checkpoints are those of classifiers
    state_dict = {**whole.state_dict(), **{
        key.replace('stages_', 'stages.'): value for key, value in peer.state_dict().items()}}
    model = CoAtNet(PEERS[name]).double().eval()
    load_backbone(model, state_dict)
    pixels = torch.randint(0, 256, (2, 3, 224, 224)).double()
    # A flat image of timm's grey is all zeros to timm: borders are where it shows.
    pixels[1] = 127.5
    with torch.no_grad():
        expected = peer((pixels - 127.5) / 127.5)[-4:]
        outs = model(_as_our_configs(pixels))
    for out, other in zip(outs, expected):
        assert out.shape == other.shape
        assert (out - other).abs().max() < 1e-6 * other.std()


def _as_our_configs(pixels):
    """Normalise RGB images (B, 3, H, W) with what the configs of CoAtNet have."""
    cfg = Config.fromfile(CONFIGS / 'mask_rcnn' / 'coatnet_0_fpn_1x_coco.py')
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.bgr_to_rgb, 'RGB, as timm'
    mean, std = (torch.tensor(preprocessor[key]).double()[:, None, None] for key in ('mean', 'std'))
    return (pixels - mean) / std


def test_weights_of_timm_that_fit_were_trained_on_the_pixels_the_converter_assumes():
    maxxvit = pytest.importorskip('timm.models.maxxvit')
    published = {name: tag for name, cfgs in maxxvit.default_cfgs.items()
                 for tag in cfgs.cfgs.values() if name.startswith('coatnet_') and tag.has_weights}
    fit = {name: tag for name, tag in published.items()
           if 'rmlp' not in name and '_bn_' not in name}
    assert {'coatnet_nano_rw_224', 'coatnet_0_rw_224', 'coatnet_1_rw_224'} <= fit.keys()
    assert {(tag.mean, tag.std) for tag in fit.values()} == {((0.5, ) * 3, (0.5, ) * 3)}
    assert published['coatnet_bn_0_rw_224'].mean != (0.5, ) * 3


def test_the_variant_with_batch_norms_is_refused():
    state_dict = {'stages.2.blocks.0.attn.rel_pos.relative_position_bias_table': torch.zeros(9, 2),
                  'stages.2.blocks.0.norm1.norm.running_mean': torch.zeros(4)}
    with pytest.raises(KeyMismatchError, match='stages.2.blocks.0.norm1.*coatnet_bn'):
        convert(state_dict, 'timm-coatnet')


def test_images_that_are_not_rgb_are_refused():
    with pytest.raises(KeyMismatchError, match='stem.conv1.weight is for images of 1 channels'):
        convert({'stem.conv1.weight': torch.zeros(4, 1, 3, 3)}, 'timm-coatnet')


def test_the_conversion_of_pixels_is_said():
    table = get_source('timm-coatnet')
    lines = table.describe({'stem.conv1.weight': torch.zeros(4, 3, 3, 3)})
    assert len(lines) == 2 and 'stem.input_shift added' in lines[1]


def test_weights_without_a_shift_load_and_shift_nothing():
    model, source = CoAtNet(SMALL), CoAtNet(SMALL)
    weights = source.state_dict()
    assert (weights.pop('stem.input_shift') == 0).all()
    load_backbone(model, weights)
    assert (model.stem.input_shift == 0).all()
    assert torch.equal(model.stem.conv1.weight, source.stem.conv1.weight)


def test_a_deployed_stem_keeps_its_shift():
    torch.manual_seed(0)
    model = CoAtNet(SMALL).eval()
    model.stem.input_shift.normal_()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        model.switch_to_deploy()
        for out, other in zip(model(image), expected):
            torch.testing.assert_close(out, other, rtol=1e-4, atol=1e-5)


def test_tables_are_resized_as_timm_resizes_them():
    pos = pytest.importorskip('timm.layers.pos_embed_rel')
    layer = RelativeAttention(64, 64, (7, 7)).eval()
    torch.nn.init.normal_(layer.table)
    flat = layer.table.detach().flatten(1).T
    expected = pos.resize_rel_pos_bias_table_simple(flat, (12, 9), (23 * 17, 2))
    with torch.no_grad():
        found = layer.resized_table((12, 9))
    torch.testing.assert_close(found.flatten(1).T, expected)


def test_resizing_with_a_deterministic_gradient():
    """On a GPU the gradient of bicubic interpolation is an error in deterministic trainings."""
    layer = RelativeAttention(64, 64, (7, 7)).double()
    torch.nn.init.normal_(layer.table)
    expected = layer.resized_table((12, 5))
    gradient, = torch.autograd.grad(expected.square().sum(), layer.table)
    with deterministic():
        found = layer.resized_table((12, 5))
    assert 'Upsample' not in type(found.grad_fn).__name__
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), layer.table)[0], gradient)


def test_a_resized_table_is_never_stale():
    layer = DeployedRelativeAttention(RelativeAttention(32, 32, (3, 3)).eval())
    with torch.no_grad():
        first = layer.resized_table((5, 4))
        assert layer.resized_table((5, 4)) is first
        layer.table += 1
        torch.testing.assert_close(layer.resized_table((5, 4)), first + 1)
        assert layer.resized_table((6, 4)).shape == (1, 11, 7)
    layer.resized_table((5, 4)).sum().backward()
    assert layer.table.grad is not None


def test_a_model_built_in_inference_mode_works():
    with torch.inference_mode():
        layer = DeployedRelativeAttention(RelativeAttention(32, 32, (3, 3)).eval())
        assert layer.resized_table((5, 4)).shape == (1, 9, 7)


@needs_torch('2.5.0', 'attention with a bias, but without its matrix, on a CPU')
@pytest.mark.parametrize('window_size', [None, 14])
def test_detection_size_takes_the_form_without_a_matrix(window_size):
    layer = RelativeAttention(32, 32, (14, 14), window_size=window_size).eval()
    with LargestTensor() as probe, torch.no_grad():
        layer(torch.randn(1, 32, 50, 84))
    assert probe.largest < (50 * 84)**2 / 10


def test_checkpoints_of_timm_are_only_read():
    with pytest.raises(KeyMismatchError, match='can only be read'):
        convert_back({'stem.conv1.weight': torch.zeros(1)}, 'timm-coatnet')
    with pytest.raises(KeyMismatchError, match='rel_pos.mlp.fc1.weight'):
        convert({'stages.2.blocks.0.attn.rel_pos.mlp.fc1.weight': torch.zeros(1)}, 'timm-coatnet')


def test_every_kernel_begins_with_the_fan_out_of_its_group():
    """Depth-wise ones too, whose scale a batch norm hides."""
    depthwise = [module for module in CoAtNet(SMALL).modules()
                 if isinstance(module, torch.nn.Conv2d) and module.groups > 1]
    assert depthwise
    for module in depthwise:
        assert module.weight.std().item() == pytest.approx((2 / 9)**0.5, rel=0.1)


# ---------------------------------------------------------------- windows

@pytest.mark.parametrize('size', [(128, 192), (160, 224)])
def test_windows_equal_attention_of_every_window_alone(size):
    layer = RelativeAttention(32, 64, (4, 4), window_size=4).eval().double()
    torch.nn.init.normal_(layer.table)
    alone = RelativeAttention(32, 64, (4, 4)).eval().double()
    alone.load_state_dict(layer.state_dict())
    x = torch.randn(2, 32, size[0] // 16, size[1] // 16).double()
    with torch.no_grad():
        out = layer(x)
        for top in range(0, x.shape[2] - 3, 4):
            for left in range(0, x.shape[3] - 3, 4):
                window = (..., slice(top, top + 4), slice(left, left + 4))
                torch.testing.assert_close(out[window], alone(x[window]))
    assert out.isfinite().all()


def test_padding_of_windows_is_not_attended_to():
    """A strip of 4 x 2 in a window of its own: attention of the strip, offsets of the window."""
    layer = RelativeAttention(32, 32, (4, 4), window_size=4).eval().double()
    torch.nn.init.normal_(layer.table)
    strip = RelativeAttention(32, 32, (4, 2)).eval().double()
    strip.load_state_dict({**layer.state_dict(), 'table': layer.table[:, :, 2:5]})
    x = torch.randn(1, 32, 4, 6).double()
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[..., 4:], strip(x[..., 4:]))


def test_windows_that_hold_the_map_change_nothing():
    image = torch.randn(1, 3, 64, 64)
    torch.manual_seed(0)
    whole, windowed = CoAtNet(SMALL).eval(), CoAtNet(SMALL, window_size=4).eval()
    windowed.load_state_dict(whole.state_dict())
    with torch.no_grad():
        for a, b in zip(whole(image), windowed(image)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- mistakes

@pytest.mark.parametrize(('types', 'message'), [
    ('CTCT', 'C-T-C-T: convolution stages must come before'), ('TTTT', 'the first is one'),
    ('CCT', 'has 4 stages, got 3'), ('CCXT', "four of 'C'")])
def test_order_of_stages(types, message):
    small = SMALL if len(types) == 4 else {key: value[:3] if isinstance(value, tuple) else value
                                           for key, value in SMALL.items()}
    with pytest.raises(ValueError, match=message):
        CoAtNet({**small, 'block_types': tuple(types)})


@pytest.mark.parametrize('types', ['CCCC', 'CCCT', 'CTTT'])
def test_other_layouts_work(types):
    model = CoAtNet({**SMALL, 'block_types': tuple(types)}).eval()
    with torch.no_grad():
        outs = model(torch.randn(1, 3, 70, 90))
    assert [tuple(out.shape[2:]) for out in outs] == [(18, 23), (9, 12), (5, 6), (3, 3)]


@pytest.mark.parametrize(('change', 'message'), [
    (dict(downsample_in='middle'), 'downsample_in must be one of'), (dict(pool='min'), "'avg2'")])
def test_wrong_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        CoAtNet({**SMALL, **change})


def test_window_size_needs_an_attention_stage():
    with pytest.raises(ValueError, match='window_size'):
        CoAtNet({**SMALL, 'block_types': ('C', ) * 4}, window_size=7)
