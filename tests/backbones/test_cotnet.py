"""CoTNet beyond parity: sizes, single images, recomputation, ONNX."""
import pytest
import torch
from built import deterministic

from mmcontainer.analysis.flops import count_flops
from mmcontainer.backbones import CoTNet
from mmcontainer.layers import BlurPool, CotLayer, GatedConv
from mmcontainer.paper import load_tables


@pytest.mark.parametrize('arch', CoTNet.arch_settings)
def test_sizes_are_the_papers(arch):
    published = load_tables()['classification'][arch.replace('-', '_')]
    with torch.device('meta'):
        model = CoTNet(arch)
    count = count_flops(model, (1, 3, published['input'], published['input']))
    classifier = 2048 * 1000 + 1000
    assert (count.parameters + classifier) / 1e6 == pytest.approx(published['params'], abs=0.1)
    assert (count.flops + classifier) / 1e9 == pytest.approx(published['flops'], rel=0.02)
    assert not count.notes, 'shapes alone should do'


@pytest.mark.parametrize('norm_cfg', [dict(type='BN'), dict(type='SyncBN')])
@pytest.mark.parametrize('arch', ['cotnet-50', 'se-cotnetd-50'])
def test_training_on_a_single_image_says_what_to_do(arch, norm_cfg):
    model, image = CoTNet(arch, norm_cfg=norm_cfg), torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r'cannot train on a single image.*norm_eval=True'):
        model(image)
    # What the message proposes works.
    CoTNet(arch, norm_cfg=norm_cfg, norm_eval=True).train()(image)
    model(image.repeat(2, 1, 1, 1))
    model.eval()(image)


def test_frozen_group_norms_still_see_the_image():
    model = CoTNet(frozen_stages=1, norm_eval=True)
    group_norms = [m for m in model.layer1.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert len(group_norms) == 3
    assert not any(p.requires_grad for m in group_norms for p in m.parameters())


@pytest.mark.parametrize('build', [lambda: CotLayer(16), lambda: CotLayer(32, groups=2),
                                   lambda: GatedConv(16)])
def test_gradients_equal_finite_differences(build):
    torch.manual_seed(0)
    layer = build().double().eval()
    channels = layer.conv1x1[1].num_features if isinstance(layer, CotLayer) else 16
    x = torch.randn(2, channels, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *parameters: layer(x), (x, *layer.parameters()), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize(('kwargs', 'message'), [
    (dict(embed_dims=12), r'embed_dims \(12\) must be a multiple of 8'),
    (dict(embed_dims=24, groups=2), 'must be a multiple of 16'),
])
def test_bad_widths_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CotLayer(**kwargs)


def test_bad_archs_are_named():
    row = CoTNet.arch_settings['cotnet-50']
    with pytest.raises(ValueError, match="'cot', 'coxt', 'gated' or 'cot-gated', got 'conv'"):
        CoTNet({**row, 'layers': ('cot', 'conv', 'cot', 'cot')})
    with pytest.raises(ValueError, match='final_norm must be False'):
        CoTNet(final_norm=True)


def test_blur_pool_of_a_single_row():
    # Nothing can be reflected there, which a 32 x 64 image reaches in the last stage.
    outs = CoTNet('se-cotnetd-152').eval()(torch.randn(1, 3, 32, 64))
    assert outs[-1].shape[-2:] == (1, 2) and outs[-1].isfinite().all()


@pytest.mark.parametrize('deploy', [False, True])
def test_bfloat16_autocast_in_both_forms(deploy):
    model, image = CoTNet('cotnet-50').eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        if deploy:
            model.switch_to_deploy()
        with torch.autocast('cpu', torch.bfloat16):
            found = model(image)
    for maps, reference in zip(found, expected):
        assert maps.dtype is torch.bfloat16
        assert (maps.float() - reference).std() < 0.05 * reference.std()


def test_statistics_of_group_norms_are_float32_under_autocast():
    torch.manual_seed(0)
    layer = CotLayer(16).eval()
    norm = layer.embed[-1]
    # Far from zero, where the sum of squares of half-precision values says nothing.
    x = (50 + torch.randn(1, 18, 64, 64)).bfloat16()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        found = norm(x)
        assert layer(torch.randn(1, 16, 8, 8)).dtype == torch.bfloat16
    expected = torch.nn.functional.group_norm(x.double(), norm.num_groups, eps=norm.eps)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize('norm_cfg', [dict(type='IN'), dict(type='BN', affine=False)])
def test_norms_without_parameters(norm_cfg):
    with torch.device('meta'):
        CoTNet(norm_cfg=norm_cfg)


@pytest.mark.parametrize('size', [(5, 6), (1, 4)])
def test_blur_pool_with_a_deterministic_gradient(size):
    """On a GPU the gradient of padding by reflection is an error in deterministic trainings."""
    x = torch.randn(2, 3, *size, requires_grad=True)
    layer = BlurPool(3)
    expected = layer(x)
    gradient, = torch.autograd.grad(expected.square().sum(), x)
    with deterministic():
        found = layer(x)
    assert torch.equal(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], gradient)
