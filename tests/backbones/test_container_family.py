"""The rows of the Container paper's tables: sizes, other image sizes, options."""
import pytest
import torch
from largest_tensor import LargestTensor
from torch_versions import needs_compile

from mmcontainer.analysis.flops import count_flops
from mmcontainer.backbones import Container, ContainerPAM
from mmcontainer.paper import load_tables

ARCHS = Container.arch_settings
PAM = ContainerPAM.arch_settings['pam']
# {row of the paper's table: arch}; the paper counts a classifier of 1000 classes.
ROWS = {
    'container': 'base', 'container_light': 'light-paper', 'container_light_released': 'light',
    'h_deit_s': 'h-deit-s', 'conv_3': 'conv-3', 'group_conv_3': 'group-conv-3', 'dw_3': 'dw-3',
    'mh_dw_3': 'mh-dw-3', 'mlp': 'mlp', 'mlp_lr': 'mlp-lr', 'mh_mlp_lr': 'mh-mlp-lr'}


def _shallow(arch, row=(), **kwargs):
    cls = ContainerPAM if arch == 'pam' else Container
    row = {**cls.arch_settings[arch], **dict(row)}
    return cls({**row, 'depths': (1, ) * len(row['depths'])}, **kwargs)


def _images(*size, batch=2, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(batch, 3, *size, dtype=dtype)


def test_every_arch_is_a_row_of_a_table():
    assert set(ROWS.values()) == set(ARCHS)


@pytest.mark.parametrize('row', ROWS)
def test_sizes_are_the_papers(row):
    published = load_tables()['classification'][row]
    with torch.device('meta'):
        model = Container(ROWS[row], final_norm=True)
    found = count_flops(model, (1, 3, 224, 224))
    parameters = found.parameters + (model.arch['embed_dims'][-1] + 1) * 1000
    assert parameters / 1e6 == pytest.approx(published['params'], abs=0.1)
    if 'flops' in published:
        assert found.flops / 1e9 == pytest.approx(published['flops'], rel=0.03)


def test_pam_without_static_affinity_is_deit():
    """Equal to MMPretrain's DeiT-S, given its weights; its size is the paper's 22.1 M."""
    models = pytest.importorskip('mmpretrain.models')
    peer = models.VisionTransformer('deit-small', img_size=224, patch_size=16).double()
    peer.eval()  # returns None
    model = ContainerPAM(
        {**PAM, 'static': None}, final_norm=True, out_type='cls_token').double().eval()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(22.05e6 - 385e3, rel=1e-3)
    names = (('ffn.layers.0.0', 'mlp.0'), ('ffn.layers.1', 'mlp.2'),
             ('layers.', 'stages.0.blocks.'), ('attn.qkv', 'attention.in_proj'),
             ('attn.proj', 'attention.out_proj'), ('.ln', '.norm'), ('ln1.', 'norm.'),
             ('patch_embed.projection', 'stages.0.patch_embed.proj'))
    weights = {}
    for key, value in peer.state_dict().items():
        for theirs, ours in names:
            key = key.replace(theirs, ours)
        weights[key] = value
    position = weights.pop('pos_embed')
    weights['stages.0.patch_embed.cls_token'] = weights.pop('cls_token') + position[:, :1]
    weights['stages.0.patch_embed.pos_table.table'] = position[:, 1:].transpose(1, 2).reshape(
        1, 384, 14, 14)
    model.load_state_dict(weights)
    image = _images(224, 224, batch=1, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(image)[0], peer(image)[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('size', [(14, 14), (9, 20)])
def test_pam_adds_its_matrix_after_the_softmax(size):
    torch.manual_seed(0)
    attention = _shallow('pam').stages[0].blocks[0].attention.double()
    attention.static.weight.data.mul_(0.1)
    tokens = torch.randn(2, 1 + size[0] * size[1], 384, dtype=torch.float64)
    value = attention.in_proj(tokens).unflatten(2, (3, 6, 64))[:, :, 2].transpose(1, 2)
    dynamic, static, mixed = attention.affinities(tokens, size)
    torch.testing.assert_close(mixed, dynamic + static)
    torch.testing.assert_close(dynamic.sum(-1), torch.ones_like(dynamic[..., 0]))
    expected = attention.out_proj((mixed @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(tokens, size), expected)
    positions = torch.tensor([0, 100])
    for rows, full in zip(attention.affinities(tokens, size, positions), (dynamic, static, mixed)):
        torch.testing.assert_close(rows, full[..., positions, :])


def test_position_table_keeps_relative_places():
    model = _shallow('dw-3')
    table = model.stages[0].pos_table
    ramp = torch.linspace(0, 1, 56).expand(64, 56, 56)  # from left to right
    table.table.data.copy_(ramp)
    for width in (56, 112, 30):
        added = table(torch.zeros(1, 64, 20, width))[0]
        torch.testing.assert_close(added[:, :, width // 2], torch.full((64, 20), 0.5),
                                   rtol=0, atol=0.6 / width)
    assert torch.equal(table(torch.zeros(1, 64, 56, 56))[0], ramp)


def test_stem_includes_the_position_table():
    model = _shallow('dw-3', frozen_stages=0)
    assert not model.stages[0].pos_table.table.requires_grad
    assert model.stages[1].pos_table.table.requires_grad
    model = _shallow('pam', frozen_stages=0)
    assert not any(p.requires_grad for p in model.stages[0].patch_embed.parameters())
    assert model.stages[0].blocks[0].norm1.weight.requires_grad


@needs_compile
@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.parametrize('arch', ['base', 'mh-mlp-lr', 'pam'])
def test_compiles_and_traces_at_any_size(arch):
    """Backend 'eager': what comes behind the graph does not depend on the arch."""
    model = _shallow(arch).eval()
    compiled = torch.compile(model, backend='eager', fullgraph=True, dynamic=True)
    with torch.no_grad():
        traced = torch.jit.trace(model, _images(75, 96))
        for size in ((75, 96), (64, 130), (224, 224)):
            image = _images(*size)
            for form in (compiled, traced):
                torch.testing.assert_close(form(image), model(image), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('arch', ['base', 'mlp', 'pam'])
def test_recomputing_equals_plain_also_in_half_precision(arch):
    row = dict(image_size=64)
    plain = _shallow(arch, row, drop_path_rate=0.3)
    recomputing = _shallow(arch, row, drop_path_rate=0.3, with_cp=True)
    recomputing.load_state_dict(plain.state_dict())
    for dtype in (torch.float32, torch.bfloat16):
        for model in (plain, recomputing):
            model.zero_grad()
            torch.manual_seed(1)
            with torch.autocast('cpu', enabled=dtype == torch.bfloat16):
                outs = model(_images(70, 64))
            assert all(out.dtype == dtype for out in outs)
            sum(out.float().square().mean() for out in outs).backward()
        for found, expected in zip(recomputing.parameters(), plain.parameters()):
            assert expected.grad.isfinite().all()
            torch.testing.assert_close(found.grad, expected.grad)


def test_pooled_keys_are_the_same_model_at_one():
    exact, image = _shallow('base').eval(), _images(96, 130)
    outs = exact(image)
    for kv_stride, equal in ((1, True), ((1, 1, 1, 1), True), (2, False), ((4, 2, 1, 1), False)):
        pooled = _shallow('base', kv_stride=kv_stride).eval()
        pooled.load_state_dict(exact.state_dict())  # no parameters of its own
        for found, expected in zip(pooled(image), outs):
            assert found.shape == expected.shape
            assert torch.equal(found, expected) == equal


@pytest.mark.parametrize('arch', ['base', 'mlp', 'pam'])
def test_memory_is_linear_in_the_number_of_positions(arch):
    """No tensor grows faster than the map, in the forward and the backward pass."""
    model, largest = _shallow(arch), []
    for width in (224, 448):
        with LargestTensor() as probe:
            sum(out.sum() for out in model(_images(224, width, batch=1))).backward()
        largest.append(probe.largest)
    tables = max(p.numel() for p in model.parameters())
    assert largest[1] <= max(2 * largest[0], tables)
    assert largest[1] < (56 * 112)**2


def test_class_token_and_map_come_from_the_same_tokens():
    maps = _shallow('pam', final_norm=True).eval()
    token = _shallow('pam', final_norm=True, out_type='cls_token').eval()
    token.load_state_dict(maps.state_dict())
    image = _images(64, 100)
    assert maps(image)[0].shape == (2, 384, 4, 6)
    assert token(image)[0].shape == (2, 384)
    tokens, size = maps.stages[0](image)
    tokens = maps.norm(tokens)
    torch.testing.assert_close(token(image)[0], tokens[:, 0])
    torch.testing.assert_close(maps(image)[0][:, :, 1, 2], tokens[:, 1 + 1 * size[1] + 2])
    assert maps(image)[0].is_contiguous(), 'as mmcv needs it'


@pytest.mark.parametrize(('arch', 'kwargs', 'message'), [
    ('base', dict(kv_stride=0), 'kv_stride must be a positive integer, or 4'),
    ('base', dict(kv_stride=(2, 2)), r'kv_stride must be .* got \(2, 2\)'),
    ('base', dict(kv_stride=1.5), 'kv_stride must be a positive integer'),
    ('dw-3', dict(kv_stride=2), 'kv_stride pools .* not every stage'),
    ('light', dict(kv_stride=(2, 1, 1, 1)), 'kv_stride pools .* not every stage'),
    ('pam', {}, "write type='ContainerPAM'"),
    ({**ARCHS['base'], 'pos_embed': 'sine'}, {}, "pos_embed of an arch must be 'conv' or 'table'"),
    ({**ARCHS['base'], 'image_size': 100}, {}, r'multiple of its last stride \(32\), got 100'),
    ({**ARCHS['dw-3'], 'static': dict(kind='dilated')}, {}, "Unknown static affinity 'dilated'"),
    ({**ARCHS['dw-3'], 'static': dict(kind='depthwise', kernel_size=(3, 5))}, {},
     'static.kernel_size'),
    ({**ARCHS['dw-3'], 'static': None}, {}, 'got neither'),
])
def test_bad_arguments_are_named(arch, kwargs, message):
    with pytest.raises(ValueError, match=message):
        Container(arch, **kwargs)


@pytest.mark.parametrize(('row', 'kwargs', 'message'), [
    ({}, dict(out_type='raw'), "'featmap' or 'cls_token'"),
    ({}, dict(out_indices=(0, 1)), r'out_indices must be .* 0 \.\.\. 0'),
    (dict(static=dict(kind='low-rank')), {}, r"dict\(kind='dense'\)"),
    (dict(num_heads=(None, )), {}, 'a number of heads'),
    (dict(image_size=100), {}, 'multiple of its patch size'),
    ({key: value * 2 for key, value in PAM.items() if key != 'static'}, {}, 'has one stage'),
])
def test_bad_arguments_of_pam_are_named(row, kwargs, message):
    with pytest.raises(ValueError, match=message):
        ContainerPAM({**PAM, **row}, **kwargs)


@pytest.mark.parametrize(('arch', 'size'), [('base', (31, 64)), ('pam', (64, 15))])
def test_images_smaller_than_a_patch_are_refused(arch, size):
    with pytest.raises(ValueError, match='Images must be at least'):
        _shallow(arch)(_images(*size))
