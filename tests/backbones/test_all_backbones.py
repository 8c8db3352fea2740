"""Duties of every registered backbone of this package, for every row of its table.

A new backbone or arch is tested here without a line being added.
"""
import copy

import pytest
import torch
from built import ALL_ARCHS, CLASSES, KINDS
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_versions import float16, needs_compile

import mmcontainer.backbones as backbones

# ContainerLight only gives an arch of Container a name of its own; ContainerPAM has one stage, and
# no batch norms.
DEFAULTS = [pytest.param(cls, id=cls.__name__) for cls in CLASSES
            if cls not in (backbones.ContainerLight, backbones.ContainerPAM)]
FROZEN_NORM = dict(type='BN', requires_grad=False)


def _images(*size, **kwargs):
    torch.manual_seed(0)
    return torch.randn(2, 3, *size, **kwargs)


def _randomise_norms(model):
    """Statistics and scales away from their trivial values, so that a missing fold is visible."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)


def _build(cls, *args, **kwargs):
    """A backbone whose branches all have an effect; some start with branches that are zero."""
    model = cls(*args, **kwargs)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not module.weight.any():
            module.weight.data.fill_(0.2)
    return model


def _shallow(cls, arch=None):
    """A row of the table with two blocks per stage at most: more of the same costs time only.

    Without a name it is the first row, which is the class's default.
    """
    row = cls.arch_settings[arch or next(iter(cls.arch_settings))]
    return {**row, 'depths': tuple(min(depth, 2) for depth in row['depths'])}


def _check_maps(model, outs, arch, size):
    assert model.strides == ((16, ) if arch == 'pam' else (4, 8, 16, 32))
    assert isinstance(outs, tuple) and len(outs) == len(model.strides)
    for out, stride, channels in zip(outs, model.strides, model.arch['embed_dims']):
        for found, pixels in zip(out.shape[2:], size):
            assert found in (pixels // stride, -(-pixels // stride))
        assert out.shape[:2] == (2, channels)


@pytest.mark.parametrize(('cls', 'arch'), KINDS)
def test_any_size_gives_a_map_of_every_stage(cls, arch):
    model = cls(_shallow(cls, arch)).eval()
    for size in ((32, 32), (33, 65), (64, 32), (97, 50)):
        with torch.no_grad():
            outs = model(_images(*size))
        _check_maps(model, outs, arch, size)
        assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize(('cls', 'arch'), [arch for arch in ALL_ARCHS if arch not in KINDS])
def test_every_other_arch_gives_a_map_of_every_stage(cls, arch):
    """At its full depth and width, on the meta device: without computing a number."""
    with torch.device('meta'):
        model = cls(arch, drop_path_rate=0.1)
        outs = model(torch.empty(2, 3, 97, 50))
    _check_maps(model, outs, arch, (97, 50))
    assert all(out.is_meta for out in outs)


@pytest.mark.parametrize('cls', CLASSES)
def test_resolves_unprefixed_from_every_library(cls):
    others = [pytest.importorskip(f'{name}.registry') for name in ('mmdet', 'mmpretrain')]
    config = dict(type=cls.__name__)
    for registry in (MODELS, *(other.MODELS for other in others)):
        assert type(registry.build(config)) is cls


@pytest.mark.parametrize('cls', DEFAULTS)
def test_out_indices(cls):
    model = cls(_shallow(cls), out_indices=(1, 3)).eval()
    full = cls(_shallow(cls)).eval()
    full.load_state_dict(model.state_dict())
    image = _images(64, 64)
    with torch.no_grad():
        outs, expected = model(image), full(image)
    assert len(outs) == 2
    torch.testing.assert_close(outs, (expected[1], expected[3]))


@pytest.mark.parametrize('cls', DEFAULTS)
def test_all_that_wants_a_gradient_gets_one(cls):
    """Else distributed training stops: stages behind the last map compute nothing."""
    model = cls(_shallow(cls), out_indices=(0, 1)).train()
    sum(out.square().sum() for out in model(_images(64, 64))).backward()
    without = [name for name, parameter in model.named_parameters()
               if parameter.requires_grad and parameter.grad is None]
    assert not without
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen and len(frozen) < len(list(model.parameters()))


@pytest.mark.parametrize('out_indices', [(4, ), (-1, ), (1, 0), (1, 1), ()])
@pytest.mark.parametrize('cls', DEFAULTS)
def test_bad_out_indices_are_named(cls, out_indices):
    with pytest.raises(ValueError, match=r'out_indices must be .* 0 \.\.\. 3'):
        cls(out_indices=out_indices)


@pytest.mark.parametrize('frozen_stages', [-2, 5, 1.5])
@pytest.mark.parametrize('cls', DEFAULTS)
def test_bad_frozen_stages_are_named(cls, frozen_stages):
    with pytest.raises(ValueError, match=r'frozen_stages must be -1 .* 1 \.\.\. 4'):
        cls(frozen_stages=frozen_stages)


@pytest.mark.parametrize('cls', DEFAULTS)
def test_unknown_arch_lists_the_known(cls):
    with pytest.raises(ValueError, match='Unknown arch') as error:
        cls('lihgt')
    assert all(repr(arch) in str(error.value) for arch in cls.arch_settings)


@pytest.mark.parametrize('cls', DEFAULTS)
def test_bad_arch_dicts_are_named(cls):
    row = dict(next(iter(cls.arch_settings.values())))
    name = next(key for key, value in row.items() if isinstance(value, tuple))
    with pytest.raises(ValueError, match='one value per stage'):
        cls({**row, name: row[name][:-1]})
    with pytest.raises(ValueError, match='a dict with the keys'):
        cls({**row, 'surprise': 1})
    with pytest.raises(ValueError, match='a dict with the keys'):
        cls(3)


@pytest.mark.parametrize('cls', DEFAULTS)
def test_too_small_images_are_refused(cls):
    with pytest.raises(ValueError, match=r'at least 32 x 32 pixels.*\(31, 64\)'):
        cls(_shallow(cls))(_images(31, 64))


@pytest.mark.parametrize('frozen_stages', range(-1, 5))
@pytest.mark.parametrize('cls', DEFAULTS)
def test_frozen_stages_get_neither_gradients_nor_statistics(cls, frozen_stages):
    model = cls(_shallow(cls), frozen_stages=frozen_stages)
    frozen = model.stem_modules() if frozen_stages >= 0 else []
    for stage in range(max(frozen_stages, 0)):
        frozen = [*frozen, model.stage(stage)]
    frozen_parameters = {id(p) for module in frozen for p in module.parameters()}
    assert bool(frozen_parameters) == (frozen_stages >= 0)
    frozen_norms = {id(m) for module in frozen for m in module.modules()
                    if isinstance(m, _BatchNorm)}
    model.eval().train()  # freezing must survive the switch
    before = copy.deepcopy(model.state_dict())
    outs = model(_images(64, 64))
    if frozen_stages < 4:
        sum(out.square().mean() for out in outs).backward()
    for parameter in model.parameters():
        assert (parameter.grad is None) == (id(parameter) in frozen_parameters)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            moved = not torch.equal(module.running_mean, before[f'{name}.running_mean'])
            assert moved == (id(module) not in frozen_norms), name


@pytest.mark.parametrize(('kwargs', 'affine_trains', 'statistics_move'), [
    (dict(), True, True),
    (dict(norm_eval=True), True, False),
    (dict(norm_cfg=FROZEN_NORM), False, False),
    (dict(norm_cfg=FROZEN_NORM, norm_eval=True), False, False),
])
@pytest.mark.parametrize('cls', DEFAULTS)
def test_frozen_norms_survive_train(cls, kwargs, affine_trains, statistics_move):
    model = cls(_shallow(cls), **kwargs).eval().train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.1)
    sum(out.mean() for out in model(_images(64, 64))).backward()
    optimizer.step()
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    assert norms
    for name, norm in norms.items():
        assert torch.equal(norm.weight, before[f'{name}.weight']) != affine_trains
        assert torch.equal(norm.running_var, before[f'{name}.running_var']) != statistics_move
    # Everything else is trained.
    assert all(p.grad is not None for name, p in model.named_parameters()
               if affine_trains or name.rpartition('.')[0] not in norms)


@pytest.mark.parametrize('cls', DEFAULTS)
def test_checkpointing_equals_plain(cls):
    plain = _build(cls, _shallow(cls), drop_path_rate=0.3).double()
    recomputing = cls(_shallow(cls), drop_path_rate=0.3, with_cp=True).double()
    recomputing.load_state_dict(plain.state_dict())
    for model in (plain, recomputing):
        torch.manual_seed(3)
        sum(out.square().mean() for out in model(_images(64, 64, dtype=torch.float64))).backward()
    torch.testing.assert_close([p.grad for p in recomputing.parameters()],
                               [p.grad for p in plain.parameters()])
    torch.testing.assert_close(recomputing.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize('cls', DEFAULTS)
def test_drop_path_acts_in_training_only(cls):
    model = _build(cls, _shallow(cls), drop_path_rate=0.9, norm_eval=True)
    image = _images(64, 64)
    torch.manual_seed(0)
    first, second = model(image)[-1], model(image)[-1]
    assert not torch.allclose(first, second)
    model.eval()
    reference = cls(_shallow(cls)).eval()
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(image), reference(image))


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('cls', DEFAULTS)
def test_maps_are_contiguous_whatever_the_images_are(cls, deploy):
    """As mmcv's RoIAlign needs them: tests/detectors/test_roi_features.py."""
    model, image = _build(cls, _shallow(cls)).eval(), _images(75, 130)
    model = model.switch_to_deploy() if deploy else model
    with torch.no_grad():
        expected = model(image)
        found = model(image.contiguous(memory_format=torch.channels_last))
    for out, reference in zip(found, expected):
        assert reference.is_contiguous() and out.is_contiguous()
        # Not the same bits: on a CPU without AVX-512 the two take other kernels of oneDNN.
        torch.testing.assert_close(out, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('cls', 'arch'), KINDS)
def test_deploy_equals_train_form(cls, arch):
    model = cls(_shallow(cls, arch)).double().eval()
    _randomise_norms(model)
    image = _images(75, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = model(image)
        assert model.switch_to_deploy() is model
        # Layers that overwrite their maps do so only in evaluation mode, all of them.
        assert not any(module.training for module in model.modules())
        for _ in range(2):
            for found, reference in zip(model(image), expected):
                torch.testing.assert_close(
                    found, reference, rtol=1e-9, atol=1e-8 * reference.abs().max().item())
            model.switch_to_deploy()  # a second call changes nothing


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
@pytest.mark.parametrize('cls', DEFAULTS)
def test_deployed_backbones_do_not_hide_nan_and_infinity(cls, value):
    model = _build(cls, _shallow(cls)).eval()
    images = _images(96, 128)
    images[0, :, 40, 50] = value
    for deployed in (False, True):
        if deployed:
            model.switch_to_deploy()
        with torch.no_grad():
            assert not any(out[0].isfinite().all() for out in model(images))


def test_deploy_folds_every_norm_of_container():
    model = backbones.Container().switch_to_deploy()
    assert not [m for m in model.modules() if isinstance(m, _BatchNorm)]


@pytest.mark.parametrize('dtype', [float16, torch.bfloat16])
@pytest.mark.parametrize('cls', DEFAULTS)
def test_autocast_is_close_to_float32(cls, dtype):
    model, image = _build(cls).eval(), _images(64, 64)
    with torch.no_grad():
        expected = model(image)
        with torch.autocast('cpu', dtype=dtype):
            outs = model(image)
    for out, reference in zip(outs, expected):
        assert out.dtype == dtype
        error = (out.float() - reference).square().mean().sqrt() / reference.std()
        assert error < (0.01 if dtype == torch.float16 else 0.05)


@pytest.mark.parametrize('cls', DEFAULTS)
def test_autocast_trains(cls):
    model = _build(cls, _shallow(cls), drop_path_rate=0.1, with_cp=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outs = model(_images(64, 64))
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('cls', DEFAULTS)
def test_trace_generalises_to_other_sizes(cls):
    model = _build(cls, _shallow(cls)).eval()
    with torch.no_grad():
        traced = torch.jit.trace(model, _images(75, 130))
        for size in ((75, 130), (64, 96)):
            # The trace has the plain operators, the model fused ones.
            for found, expected in zip(traced(_images(*size)), model(_images(*size))):
                torch.testing.assert_close(
                    found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def _few_blocks(cls):
    """One or two of each kind: compilation takes seconds for every block."""
    return {**_shallow(cls), 'depths': (2, 1, 2, 1) if cls is backbones.CoAtNet else (2, 1, 1, 1)}


@needs_compile
@pytest.mark.no_cover
@pytest.mark.parametrize('cls', DEFAULTS)
def test_compiles_as_one_graph_with_the_same_gradients(cls):
    model = _build(cls, _few_blocks(cls)).double()
    image = _images(75, 96, dtype=torch.float64)
    results = []
    for forward in (model, torch.compile(model, backend='aot_eager', fullgraph=True)):
        model.zero_grad()
        out = forward(image)
        sum(o.square().mean() for o in out).backward()
        results.append((out, [p.grad for p in model.parameters()]))
    torch.testing.assert_close(results[1], results[0])


@needs_compile
@pytest.mark.no_cover
@pytest.mark.parametrize('cls', DEFAULTS)
def test_checkpointing_compiles(cls):
    """Statistics move once there, too."""
    arch = {**_few_blocks(cls), 'depths': (1, 1, 1, 1)}
    plain = _build(cls, arch).double()
    recomputing = cls(arch, with_cp=True).double()
    recomputing.load_state_dict(plain.state_dict())
    image = _images(64, 64, dtype=torch.float64)
    for forward in (plain, torch.compile(recomputing, backend='aot_eager', fullgraph=True)):
        sum(out.square().mean() for out in forward(image)).backward()
    torch.testing.assert_close([p.grad for p in recomputing.parameters()],
                               [p.grad for p in plain.parameters()])
    torch.testing.assert_close(recomputing.state_dict(), plain.state_dict())


@needs_compile
@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.parametrize(('cls', 'stage'), [(backbones.CoTNet, 0), (backbones.CoAtNet, 2)])
def test_compiles_to_machine_code(cls, stage):
    """As far as the first stage with each kind of block; for Container see cli/test_models.py."""
    arch = {**next(iter(cls.arch_settings.values())), 'depths': (1, 1, 1, 1)}
    model, image = _build(cls, arch, out_indices=(stage, )).eval(), _images(64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(image), model(image), rtol=1e-3, atol=1e-4)


class _ChildWithInit(nn.Module):

    def __new__(cls):
        from mmengine.model import Sequential
        init_cfg = dict(type='Constant', layer='Conv2d', val=7.)
        return Sequential(nn.Conv2d(3, 3, 1), init_cfg=init_cfg)


@pytest.mark.parametrize('cls', DEFAULTS)
def test_pretrained_weights_win_over_a_childs_init_cfg(cls, tmp_path):
    class WithChild(cls):

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.child = _ChildWithInit()

    source = WithChild(_shallow(cls))
    source.init_weights()
    assert (source.child[0].weight == 7).all()  # the child does initialise itself
    source.child[0].weight.data.fill_(5.)
    torch.save(source.state_dict(), tmp_path / 'weights.pth')
    checkpoint = dict(type='StrictPretrained', checkpoint=str(tmp_path / 'weights.pth'))
    for init_cfg in (checkpoint, [dict(type='Constant', layer='Conv2d', val=1.), checkpoint]):
        model = WithChild(_shallow(cls), init_cfg=init_cfg)
        model.init_weights()
        torch.testing.assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)
        assert model.init_cfg == init_cfg


def test_drop_path_grows_linearly():
    model = backbones.Container(drop_path_rate=0.17)
    rates = [getattr(block.drop_path, 'drop_prob', 0.) for stage in model.stages
             for block in stage.blocks]
    assert rates == pytest.approx([0.01 * i for i in range(18)], abs=1e-7)
    assert isinstance(model.stages[0].blocks[0].drop_path, nn.Identity)
