"""ViT with DINO's table of positions, against an explicit bicubic interpolation."""
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn
from torch.nn import functional as F

from mmcontainer.selfsup import DeiTVisionTransformer, DINOVisionTransformer


def cubic(x, a=-0.75):
    """The kernel of bicubic interpolation."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.


def matrix(old, new):
    """(new, old) weights of one side, with DINO's coordinates and clamped edges."""
    rows = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        place = (i + 0.5) * old / (new + 0.1) - 0.5
        for j in range(math.floor(place) - 1, math.floor(place) + 3):
            rows[i, min(max(j, 0), old - 1)] += cubic(place - j)
    return rows


@pytest.fixture(scope='module')
def small():
    arch = dict(embed_dims=12, num_layers=2, num_heads=3, feedforward_channels=24)
    model = DINOVisionTransformer(arch, img_size=224, patch_size=16)
    model.init_weights()
    model.double().eval()  # MMPretrain's eval() returns nothing
    return model


@pytest.mark.parametrize('height, width', [(6, 6), (2, 5), (16, 14)])
def test_resized_positions(small, height, width):
    table = small.pos_embed[0, 1:].unflatten(0, (14, 14))
    expected = torch.einsum('ih,jw,hwc->ijc', matrix(14, height), matrix(14, width), table)
    found = small.resized_positions(height, width)
    torch.testing.assert_close(found[0, 1:], expected.flatten(0, 1), rtol=1e-9, atol=1e-12)
    assert torch.equal(found[:, 0], small.pos_embed[:, 0])


def test_at_its_own_size_it_is_the_vision_transformer_of_mmpretrain(small):
    theirs = MODELS.build(dict(
        type='VisionTransformer', img_size=224, patch_size=16,
        arch=dict(embed_dims=12, num_layers=2, num_heads=3, feedforward_channels=24)))
    theirs.load_state_dict(small.state_dict())
    theirs.double().eval()
    x = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(small(x)[0], theirs(x)[0])
        assert small(x[..., :96, :96])[0].shape == (2, 12)


def test_size_and_initialisation_of_the_baseline():
    model = DINOVisionTransformer('deit-small', img_size=224, patch_size=16, drop_path_rate=0.1)
    assert sum(value.numel() for value in model.parameters()) == 21_665_664
    model.init_weights()
    for name, value in model.named_parameters():
        if name.endswith(('qkv.weight', 'cls_token', 'pos_embed', 'layers.0.0.weight')):
            assert value.std().item() == pytest.approx(0.02, rel=0.2), name
        elif name.endswith('bias') and 'projection' not in name:
            assert not value.any(), name


@pytest.mark.parametrize('config', ['imagenet/deit_s_8xb128_in1k.py',
                                    'imagenette/deit_s_1xb64_8e_imagenette.py'])
def test_supervised_training_begins_as_deits(repo_root, config):
    """MMPretrain's layers draw their MLPs by another rule, after the init_cfg of the model."""
    cfg = Config.fromfile(repo_root / 'configs' / config)
    cfg.model.backbone.arch = dict(embed_dims=192, num_layers=2, num_heads=3,
                                   feedforward_channels=768)
    cfg.model.head.in_channels = 192
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    model.init_weights()
    weights = {name: module.weight for name, module in model.named_modules()
               if isinstance(module, nn.Linear)}
    assert len(weights) == 9 and 'backbone.layers.1.ffn.layers.1' in weights
    for name, weight in weights.items():
        assert weight.std().item() == pytest.approx(0.02, rel=0.1), name
    assert model.backbone.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert model.backbone.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)


def test_loaded_weights_are_not_drawn_anew(tmp_path):
    arch = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
    model = DeiTVisionTransformer(arch, img_size=32)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'vit.pth')
    other = DeiTVisionTransformer(arch, img_size=32, init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'vit.pth')))
    other.init_weights()
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_bfloat16_attends_in_float32_to_few_positions(monkeypatch):
    """On a CPU, in training, by :func:`mmcontainer.ops.fused_attention`."""
    types, attend = [], F.scaled_dot_product_attention

    def record(query, *args):
        types.append(query.dtype)
        return attend(query, *args)

    arch = dict(embed_dims=12, num_layers=1, num_heads=3, feedforward_channels=24)
    model = DeiTVisionTransformer(arch, img_size=8, patch_size=4)
    monkeypatch.setattr(F, 'scaled_dot_product_attention', record)
    with torch.autocast('cpu', torch.bfloat16):
        model(torch.rand(2, 3, 8, 8))
    assert types == [torch.float32]
