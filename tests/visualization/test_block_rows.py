"""What a position collects in the blocks of every family, against the explicit matrices."""
import numpy as np
import pytest
import torch
from built import ALL_ARCHS
from largest_tensor import LargestTensor

from mmcontainer.backbones import CoAtNet, Container, CoTNet
from mmcontainer.layers import CotLayer, DenseTokenAffinity, RelativeAttention
from mmcontainer.ops.explicit import local_affinity, relative_affinity
from mmcontainer.visualization.affinity import Position
from mmcontainer.visualization.block_rows import LocalRows, RelativeRows, find_blocks, recording
from mmcontainer.visualization.network_input import Geometry, NetworkInput


def make_image(height, width, seed=0):
    torch.manual_seed(seed)
    return NetworkInput(torch.randn(1, 3, height, width), np.zeros((height, width, 3), np.uint8),
                        (height, width), Geometry(np.ones(2), np.zeros(2)), (0, 0, width, height))


def record(backbone, image):
    with torch.no_grad(), recording(backbone) as blocks:
        backbone(image.inputs)
    return [block for block in blocks if block.kept]


def build(cls, arch, **kwargs):
    """A backbone with all that is special about an arch, but one or two blocks in a stage."""
    torch.manual_seed(0)
    row = dict(cls.arch_settings[arch])
    row['depths'] = tuple(min(2, depth) for depth in row['depths'])
    return cls(row, **kwargs).eval()


@pytest.mark.parametrize(('cls', 'arch'), ALL_ARCHS)
def test_every_arch_at_an_odd_size(cls, arch):
    image = make_image(75, 101)
    backbone = build(cls, arch)
    blocks = record(backbone, image)
    assert len(blocks) == len(find_blocks(backbone)) > 0
    for block in blocks:
        near, far = (block.build(Position('', place), image) for place in ((3., 3.), (90., 70.)))
        if not near.maps:  # a convolution that mixes channels
            assert not near.mixture.has_matrix
            continue
        assert near.grid_size == block.grid_size
        rows, columns = block.grid_size
        assert near.cells.tolist() == [[3 // block.stride, 3 // block.stride]]
        assert 0 <= far.cells[0, 0] < rows and 0 <= far.cells[0, 1] < columns
        for name, values in near.maps.items():
            assert np.isfinite(values).all()
            assert not np.array_equal(values, far.maps[name]), (block.layer, name)
        if 'dynamic' in near.maps and not isinstance(block, LocalRows):
            np.testing.assert_allclose(near.sums('dynamic'), 1, rtol=1e-5)
        if 'mixed' in near.maps and near.mixture.alpha is not None:
            mixture = near.mixture
            expected = (mixture.alpha * near.maps['dynamic'] + mixture.beta * near.maps['static'])
            np.testing.assert_allclose(near.maps['mixed'], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(('groups', 'cell'), [(1, (2, 3)), (2, (0, 0)), (1, (4, 6))])
def test_a_window_is_the_row_of_the_local_affinity(groups, cell):
    torch.manual_seed(0)
    layer = CotLayer(16, groups=groups).eval()
    block = LocalRows('layer1.0', layer, 0, 4)
    handles, seen = block.watch(), {}
    handles.append(layer.embed.register_forward_hook(
        lambda module, args, out: seen.update(weights=out)))
    with torch.no_grad():
        layer(torch.randn(1, 16, 5, 7))
    weights = seen['weights'].unflatten(1, (layer.weight_channels, 9))
    matrix = local_affinity(weights).mean(dim=1)[0]
    rows = block.build(Position('', (cell[1] * 4 + 1., cell[0] * 4 + 1.)), make_image(20, 28))
    np.testing.assert_allclose(rows.maps['dynamic'][0].ravel(), matrix[cell[0] * 7 + cell[1]],
                               rtol=1e-5, atol=1e-6)
    assert rows.heads['dynamic'] == layer.weight_channels
    assert rows.mixture.alpha + rows.mixture.beta == pytest.approx(1)
    for handle in handles:
        handle.remove()


def test_the_share_of_a_cot_layer_is_what_it_mixes_with():
    torch.manual_seed(0)
    layer = CotLayer(16).eval()
    torch.nn.init.normal_(layer.se[3].weight)
    block = LocalRows('layer1.0', layer, 0, 4)
    block.watch()
    x = torch.randn(1, 16, 5, 7)
    with torch.no_grad():
        out = layer(x)
        key = layer.key_embed(x)
        weight = layer.embed(layer.concatenate(x, key))
        dynamic = layer.act(layer.bn(layer.aggregate(layer.conv1x1(x), weight)))
    share = ((out - key) / (dynamic - key)).median(dim=-1).values.median(dim=-1).values
    assert block.kept['alpha'] == pytest.approx(float(share.mean()), rel=1e-4)


@pytest.mark.parametrize('window', [None, 4])
@pytest.mark.parametrize('cell', [(0, 0), (4, 5), (6, 8)])
def test_relative_attention_collects_what_its_row_says(window, cell):
    """One head, so that the mean over the heads is all: the row times the values is the output."""
    torch.manual_seed(0)
    attention = RelativeAttention(8, 8, (5, 5), head_dims=8, window_size=window).eval()
    torch.nn.init.normal_(attention.table)
    block = RelativeRows('stages.2.0', attention, 2, 16)
    block.watch()
    x = 3 * torch.randn(1, 8, 7, 9)
    with torch.no_grad():
        out = attention(x)
        value = attention.qkv(x).chunk(3, dim=1)[2]
        rows = block.build(Position('', (cell[1] * 16 + 8., cell[0] * 16 + 8.)),
                           make_image(112, 144))
        collected = torch.einsum('hw,chw->c', torch.from_numpy(rows.maps['mixed'][0]), value[0])
        expected = attention.proj(collected[None, :, None, None])[0, :, 0, 0]
    torch.testing.assert_close(expected, out[0, :, cell[0], cell[1]], rtol=1e-4, atol=1e-5)
    for name in ('dynamic', 'static', 'mixed'):
        assert rows.sums(name)[0] == pytest.approx(1, rel=1e-5)


def test_content_and_position_are_told_apart():
    torch.manual_seed(0)
    attention = RelativeAttention(8, 8, (4, 5), head_dims=4).eval()
    torch.nn.init.normal_(attention.table)
    block = RelativeRows('stages.2.0', attention, 2, 16)
    block.watch()
    x = 3 * torch.randn(1, 8, 4, 5)
    with torch.no_grad():
        attention(x)
        query, key, _ = attention._split_heads(attention.qkv(x))
        none = torch.zeros_like(attention.table)
        content = relative_affinity(query, key, none, (4, 5)).mean(dim=1)[0, 7]
        bias = relative_affinity(0 * query, key, attention.table, (4, 5)).mean(dim=1)[0, 7]
    rows = block.build(Position('', (2 * 16., 16.)), make_image(64, 80))
    np.testing.assert_allclose(rows.maps['dynamic'].ravel(), content, rtol=1e-4)
    np.testing.assert_allclose(rows.maps['static'].ravel(), bias.detach(), rtol=1e-4)


def test_rows_of_some_tokens_are_those_of_the_whole_matrix():
    torch.manual_seed(0)
    static = DenseTokenAffinity((3, 4), 2)
    for size in ((3, 4), (5, 3)):
        tokens = torch.randn(1, 2, 1 + size[0] * size[1], 6)
        matrix = static.affinity(size)
        torch.testing.assert_close(matrix @ tokens[0], static(tokens, size)[0])
        wanted = torch.tensor([0, 9, 4])
        torch.testing.assert_close(static.affinity(size, wanted), matrix[:, wanted])


@pytest.mark.parametrize(('cls', 'arch'), [
    case for case in ALL_ARCHS if case.values[1] in ('base', 'mlp', 'pam', 'cotnet-50',
                                                     'coatnet-0')])
def test_a_click_makes_no_tensor_as_large_as_a_matrix(cls, arch):
    image = make_image(320, 448)
    for block in record(build(cls, arch), image):
        positions = block.grid_size[0] * block.grid_size[1]
        parameters = max(p.numel() for p in block.module.parameters())
        projection = getattr(block.module, 'qkv', getattr(block.module, 'in_proj', None))
        channels = 9 if projection is None else len(projection.weight)  # of a CoT layer the taps
        with LargestTensor() as mode:
            block.build(Position('', (100., 50.)), image)
        # Projections of the whole map, or a matrix as it was learned, but nothing quadratic.
        assert mode.largest <= max(parameters, channels * (1 + positions))


def test_positions_that_a_block_does_not_see_count_as_the_nearest_cell():
    image = make_image(75, 101)  # CoTNet rounds up, Container down: 9 x 12 cells of 8 pixels
    blocks = record(build(Container, 'light'), image)
    rows = [block.build(Position('', (100.9, 74.9)), image) for block in blocks]
    assert rows[-1].cells.tolist() == [[1, 2]]
    cropped = image._replace(geometry=Geometry(np.ones(2), np.array([-30., -30.])))
    assert blocks[0].build(Position('', (5., 5.)), cropped).cells.tolist() == [[0, 0]]


def test_blocks_that_have_not_run_are_left_out():
    image = make_image(64, 64)
    assert [block.stage for block in record(build(Container, 'base', out_indices=(0, )), image)] \
        == [0, 0]
    assert find_blocks(torch.nn.Conv2d(3, 3, 1)) == []


def test_the_grid_of_a_layer_before_a_pooling_is_that_of_the_stage_before():
    blocks = record(build(CoTNet, 'se-cotnetd-152'), make_image(96, 128))
    for block in blocks:
        assert block.grid_size == (96 // block.stride, 128 // block.stride)
    assert {block.stride for block in blocks} == {8, 16, 32}


def test_windows_are_named():
    image = make_image(96, 128)
    blocks = record(build(CoAtNet, 'coatnet-0', window_size=4), image)
    texts = [block.build(Position('', (5., 5.)), image).mixture.dynamic for block in blocks]
    assert texts == 2 * ['softmax of the content in windows of 4 x 4'] + 2 * [
        'softmax of the content']
