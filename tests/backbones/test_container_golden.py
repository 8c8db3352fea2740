"""Container-Light equals the official model, stage by stage and with gradients."""
import pytest
import torch
from golden_rule import Fixture, make_state_dict, unit_errors

from mmcontainer.backbones import Container
from mmcontainer.checkpoints import convert, convert_back, load_backbone
from mmcontainer.layers import (
    ContainerBlock,
    ContextAggregation,
    DepthwiseAffinity,
    PatchEmbed,
)

MODELS = {'light': 'container_v1_light__s1__224x224',
          'light-paper': 'container_light_paper__s1__224x224'}
# (precision, deployed) -> largest allowed error over the standard deviation of the tensor
TOLERANCES = {
    (torch.float64, False): 1e-6,
    (torch.float64, True): 1e-5,
    (torch.float32, False): 1e-4,
}


@pytest.mark.parametrize(('dtype', 'deploy'), list(TOLERANCES), ids=str)
@pytest.mark.parametrize('arch', MODELS)
def test_every_stage_equals_official_model(arch, dtype, deploy):
    fixture = Fixture(MODELS[arch])
    image = fixture.model_input().to(dtype)
    model = Container(arch, final_norm=True)
    load_backbone(model, fixture.state_dict)
    model = model.to(dtype).eval()
    if deploy:
        model.switch_to_deploy()
    found = {}
    for i, stage in enumerate(model.stages, start=1):
        stage.patch_embed.register_forward_hook(
            lambda module, args, out, key=f'embed{i}': found.__setitem__(key, out))
        stage.register_forward_hook(
            lambda module, args, out, key=f'stage{i}': found.__setitem__(key, out))
    with torch.no_grad():
        outs = model(image)
    found['norm'] = outs[-1]
    head = {name: fixture.state_dict[f'head.{name}'].to(dtype) for name in ('weight', 'bias')}
    found['logits'] = torch.nn.functional.linear(outs[-1].mean((2, 3)), **head)
    assert torch.equal(outs[0], found['stage1']) and torch.equal(outs[2], found['stage3'])
    errors = {key: fixture.relative_error(key, value) for key, value in found.items()}
    assert max(errors.values()) <= TOLERANCES[dtype, deploy], errors


def _build_unit(name):
    """The module of a unit fixture and {official parameter name: ours}."""
    if name == 'unit_container_patch_embed':
        return PatchEmbed(8, 16, 2), {}
    names = {'conv1': 'aggregation.in_proj', 'conv2': 'aggregation.out_proj',
             'sa_weight': 'aggregation.mix_logit', 'attn': 'aggregation.static',
             'conv': 'aggregation.static'}
    if name == 'unit_container_cblock_d16_r8':
        aggregation = ContextAggregation(16, static=DepthwiseAffinity(16, 5))
        return ContainerBlock(aggregation, 16, mlp_ratio=8), names
    aggregation = ContextAggregation(64, num_heads=16, static=DepthwiseAffinity(64, 5))
    return ContainerBlock(aggregation, 64, mlp_ratio=4), names


@pytest.mark.parametrize('name', ['unit_container_patch_embed', 'unit_container_cblock_d16_r8',
                                  'unit_container_mixblock_d64'])
def test_unit_equals_official_module_with_gradients(name):
    fixture = Fixture(name)
    module, names = _build_unit(name)

    def ours(key):
        first, dot, rest = key.partition('.')
        return names.get(first, first) + dot + rest

    errors = unit_errors(fixture, module, ours)
    assert max(errors.values()) <= 1e-6, errors


@pytest.mark.parametrize('name', ['container_v1_light', 'container_light_paper'])
def test_conversion_is_complete_and_invertible(name):
    official = make_state_dict(name, seed=5, gain=0.6)
    converted = convert(official, 'container')
    assert len(converted) == len(official)
    arch = 'light' if name == 'container_v1_light' else 'light-paper'
    assert set(converted) == {*Container(arch, final_norm=True).state_dict(), 'head.weight',
                              'head.bias'}
    back = convert_back(converted, 'container')
    assert list(back) == list(official)
    assert all(torch.equal(back[key], official[key]) for key in official)
