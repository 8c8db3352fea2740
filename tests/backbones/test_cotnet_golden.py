"""CoTNet equals the official models, stage by stage, and its parts with gradients."""
import pytest
import torch
from golden_rule import Fixture, read_keys, unit_errors
from torch import nn

from mmcontainer.backbones import CoTNet
from mmcontainer.checkpoints import load_backbone
from mmcontainer.layers import BlurPool, CotBlock, CotLayer, GatedConv

MODELS = {'cotnet-50': 'cotnet50', 'cotnext-50': 'cotnext50_2x48d',
          'se-cotnetd-50': 'se_cotnetd_50', 'se-cotnetd-152': 'se_cotnetd_152'}
KEY_LISTS = {**MODELS, 'cotnet-101': 'cotnet101', 'cotnext-101': 'cotnext101_2x48d',
             'se-cotnetd-101': 'se_cotnetd_101'}
# (precision, deployed) -> largest allowed error over the standard deviation of the tensor
TOLERANCES = {
    (torch.float64, False): 1e-6,
    (torch.float64, True): 1e-6,
    (torch.float32, False): 1e-4,
}


@pytest.mark.parametrize(('dtype', 'deploy'), list(TOLERANCES), ids=str)
@pytest.mark.parametrize('arch', MODELS)
def test_every_stage_equals_official_model(arch, dtype, deploy):
    fixture = Fixture(f'{MODELS[arch]}__s1__224x224')
    image = fixture.model_input().to(dtype)
    model = CoTNet(arch)
    load_backbone(model, fixture.state_dict)
    model = model.to(dtype).eval()
    if deploy:
        model.switch_to_deploy()
    found = {}
    model.relu.register_forward_hook(lambda module, args, out: found.update(stem=out))
    with torch.no_grad():
        outs = model(image)
    found.update((f'stage{i}', out) for i, out in enumerate(outs, start=1))
    head = {name: fixture.state_dict[f'fc.{name}'].to(dtype) for name in ('weight', 'bias')}
    found['logits'] = nn.functional.linear(outs[-1].mean((2, 3)), **head)
    errors = {key: fixture.relative_error(key, value) for key, value in found.items()}
    assert max(errors.values()) <= TOLERANCES[dtype, deploy], errors


@pytest.mark.parametrize('arch', KEY_LISTS)
def test_names_and_shapes_are_the_official_ones(arch):
    official = [(key, tuple(shape)) for key, shape, _ in read_keys(KEY_LISTS[arch])
                if not key.startswith('fc.')]
    assert [(key, tuple(value.shape))
            for key, value in CoTNet(arch).state_dict().items()] == official


def _shortcut(in_channels, out_channels, pool):
    layers = [nn.Conv2d(in_channels, out_channels, 1, stride=1 if pool else 2, bias=False),
              nn.BatchNorm2d(out_channels)]
    if pool:
        layers.insert(0, nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False))
    return nn.Sequential(*layers)


def _se_block(width, layer, **kwargs):
    return CotBlock(24, width, 4 * width, layer, downsample=_shortcut(24, 4 * width, True),
                    **kwargs)


UNITS = {
    'unit_blurpool': lambda: BlurPool(4),
    'unit_cot_layer_d32': lambda: CotLayer(32),
    'unit_coxt_layer_d48': lambda: CotLayer(48, groups=2),
    'unit_split_attn_r1_s2': lambda: GatedConv(16, stride=2),
    'unit_cot_bottleneck_s2': lambda: CotBlock(
        24, 16, 64, CotLayer(16), before=nn.AvgPool2d(3, 2, 1),
        downsample=_shortcut(24, 64, False)),
    'unit_sed50_cot_s2': lambda: _se_block(32, CotLayer(32), before=nn.AvgPool2d(3, 2, 1)),
    'unit_sed50_splitattn_s2': lambda: _se_block(16, GatedConv(16, stride=2)),
    'unit_sed152_cot_s2': lambda: _se_block(32, CotLayer(32), after=BlurPool(32)),
    'unit_sed152_splitattn_s2': lambda: _se_block(16, GatedConv(16), after=BlurPool(16)),
}


@pytest.mark.parametrize('name', UNITS)
def test_unit_equals_official_module_with_gradients(name):
    errors = unit_errors(Fixture(name), UNITS[name]())
    assert max(errors.values()) <= 1e-6, errors
