"""The numbers behind the figures of SMCA-DETR's queries, the figures, and the tool."""
import itertools

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from smca_models import build_detector, build_multi_scale

from mmcontainer.errors import UserError
from mmcontainer.visualization.network_input import Geometry, NetworkInput
from mmcontainer.visualization.query_attention import check_choice, collect_layers
from mmcontainer.visualization.query_figures import draw_queries, numbers

SIZE = (128, 160)  # 4 x 5 cells


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    model = build_detector(3, num_classes=3, num_queries=10, layers=(1, 2)).eval()
    model.init_weights()
    model.extract_feat = lambda images: model.neck((images[..., ::32, ::32], ))
    return model


@pytest.fixture
def image():
    torch.manual_seed(1)
    return NetworkInput(torch.randn(1, 3, *SIZE), np.zeros((*SIZE, 3), np.uint8), SIZE,
                        Geometry(np.ones(2), np.zeros(2)), (0, 0, SIZE[1], SIZE[0]))


def test_rows_are_those_the_decoder_attends_with(model, image):
    """The layer's attention returns the drawn weights times its values."""
    layer, found = model.decoder.layers[1].cross_attn, {}
    handle = layer.register_forward_hook(
        lambda module, args, out: found.update(args=args, out=out))
    rows, = collect_layers(model, image, [1], head=2, queries=[4, 7])
    handle.remove()
    query, _, value, *_ = found['args']
    layer.eval()
    heads = []
    for head in range(8):
        weights = torch.from_numpy(collect_layers(model, image, [1], head, [4, 7])[0].after)
        _, _, values = layer.project(query, query, value)
        heads.append(weights.flatten(1) @ values[0, head])
    out = query[0, [4, 7]] + layer.attn.out_proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(out, found['out'][0, [4, 7]], rtol=1e-4, atol=1e-5)
    assert rows.before.shape == rows.gaussian.shape == rows.after.shape == (2, 4, 5)
    for weights in (rows.before, rows.after):
        np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1, rtol=1e-5)


def test_the_gaussian_relates_both_softmaxes_and_peaks_at_its_point(model, image):
    rows, = collect_layers(model, image, [0], head=1, queries=[3])
    product = rows.before[0] * rows.gaussian[0]
    np.testing.assert_allclose(rows.after[0], product / product.sum(), rtol=1e-4)
    row, column = np.unravel_index(rows.gaussian[0].argmax(), (4, 5))
    place = rows.points[0, 0].clip(0, (159, 127))
    assert (column, row) == tuple((place // 32).astype(int))


def test_best_queries_and_boxes_are_the_predicted_ones(model, image):
    rows, = collect_layers(model, image, [1])
    assert rows.head == 'mean over 8 heads' and rows.points.shape == (3, 8, 2)
    assert (np.diff(rows.scores) <= 0).all()
    logits, boxes = model.bbox_head(**model.forward_transformer(
        model.extract_feat(image.inputs), _samples()))
    best = logits[-1, 0].sigmoid().max(-1).values.topk(3)
    assert rows.queries.tolist() == best.indices.tolist()
    centre = (rows.boxes[:, :2] + rows.boxes[:, 2:]) / 2
    expected = boxes[-1, 0, best.indices, :2] * torch.tensor([160., 128.])
    np.testing.assert_allclose(centre, expected.detach(), rtol=1e-4)


@pytest.mark.parametrize('stride', [32, None])
@pytest.mark.parametrize(('size', 'grid'), [((121, 150), (3, 4)), ((121, 150), (4, 5))])
def test_cells_are_those_of_the_model_where_sides_are_no_multiples(model, monkeypatch, stride,
                                                                   size, grid):
    """Backbones round the grid down or up; a query's point lies where the decoder has put it."""
    monkeypatch.setattr(model, 'reference_stride', stride)
    features = model.neck((torch.randn(1, 3, *grid), ))
    image = NetworkInput(torch.zeros(1, 3, *size), np.zeros((*size, 3), np.uint8), size,
                         Geometry(np.ones(2), np.zeros(2)), (0, 0, size[1], size[0]))
    for layer in model.decoder.layers:  # all heads look at the reference point
        for parameter in layer.offset.parameters():
            monkeypatch.setattr(parameter, 'data', torch.zeros_like(parameter))
    rows, = collect_layers(model, image, [1], queries=[3], features=features)
    expected = (32, 32) if stride else (size[1] / grid[1], size[0] / grid[0])
    np.testing.assert_allclose(rows.cell_size, expected, rtol=1e-6)
    # Half a cell: see QueryAttention.
    np.testing.assert_allclose(rows.points[0] - rows.references, np.tile(expected, (8, 1)) / 2,
                               rtol=1e-4)


def _samples():
    from smca_models import make_samples
    return make_samples([SIZE], SIZE)


@pytest.mark.parametrize(('layer', 'head', 'queries', 'message'), [
    (2, 'mean', None, '--layer 2: the decoder has 0 to 1'),
    (None, 8, None, '--head 8: the decoder has 0 to 7'),
    (0, 'mean', [3, 10], '--query 10: the decoder has 0 to 9')])
def test_numbers_out_of_range_are_named(model, layer, head, queries, message):
    with pytest.raises(UserError, match=message):
        check_choice(model, layer, head, queries)
    assert check_choice(model, None, 'mean', None) == 1


def test_other_detectors_are_refused():
    with pytest.raises(UserError, match='Linear has no decoder'):
        check_choice(torch.nn.Linear(1, 1), None, 'mean', None)


def test_groups_of_the_multi_scale_detector_add_up_to_its_attention(image):
    torch.manual_seed(0)
    model = build_multi_scale((3, 3, 3), num_classes=3, num_queries=10, layers=(1, 2)).eval()
    model.init_weights()
    model.extract_feat = lambda images: model.neck(tuple(
        images[..., ::stride, ::stride] for stride in (8, 16, 32)))
    layer, found = model.decoder.layers[1].cross_attn, {}
    handle = layer.register_forward_hook(
        lambda module, args, out: found.update(args=args, out=out))
    mean = collect_layers(model, image, [1], queries=[4, 7])
    handle.remove()
    assert [rows.before.shape[1:] for rows in mean] == [(8, 10), (8, 10), (4, 5), (2, 3)]
    np.testing.assert_allclose([rows.cell_size for rows in mean],
                               [(16, 16), (16, 16), (32, 32), (64, 64)], rtol=1e-6)
    assert [rows.group for rows in mean] == [
        'stride 8, reduced to 16', 'stride 16', 'stride 32', 'stride 64']
    np.testing.assert_allclose(sum(rows.weights for rows in mean), 1, rtol=1e-6)
    query, _, value, *_ = found['args']
    _, _, values = layer.project(query, query, value)
    heads = []
    for head in range(8):
        groups = collect_layers(model, image, [1], head, [4, 7])
        weights = np.concatenate([rows.weights[:, None] * rows.after.reshape(2, -1)
                                  for rows in groups], axis=1)
        heads.append(torch.from_numpy(weights) @ values[0, head])
    out = query[0, [4, 7]] + layer.attn.out_proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(out, found['out'][0, [4, 7]], rtol=1e-4, atol=1e-5)

    figure = draw_queries(mean, image, ['a', 'b', 'c'])
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 2 * 4 * 4  # queries, groups, panels of a line
    texts = [axes.get_title() for axes in panels[::4]]
    for text, (query, rows) in zip(texts, itertools.product(range(2), mean)):
        assert text.startswith(f'query {(4, 7)[query]}: ')
        assert text.endswith(f'{rows.group}: weight {rows.weights[query]:.2f}')
    written = numbers(mean)
    assert written['queries'].tolist() == [4, 7] and 'after' not in written
    for i, rows in enumerate(mean):
        assert written[f'group_{i}'] == rows.group and written[f'after_{i}'] is rows.after


@pytest.mark.slow
def test_tool_writes_pictures_and_numbers(run_tool, tmp_path):
    config = tmp_path / 'small.py'
    config.write_text("""_base_ = 'mmcontainer::detr/smca_detr_container_light_50e_coco.py'
model = dict(num_queries=10, test_cfg=dict(max_per_img=10), backbone=dict(init_cfg=None),
             encoder=dict(num_layers=1), decoder=dict(num_layers=1))
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='PackDetInputs')]))
""")
    checkpoint, photo = tmp_path / 'small.pth', tmp_path / 'photo.png'
    with DefaultScope.overwrite_default_scope('mmdet'):
        small = MODELS.build(Config.fromfile(config).model)
    torch.save({'state_dict': small.state_dict()}, checkpoint)
    cv2.imwrite(str(photo), np.random.RandomState(0).randint(0, 255, (100, 130, 3), np.uint8))

    command = ('visualize_affinity.py', config, checkpoint, photo, '--out-dir', 'out',
               '--device', 'cpu')
    refused = run_tool(*command, '--query', 'best', '--position', '3,4', code=2)
    assert 'leave out --position' in refused
    assert not (tmp_path / 'out').exists()
    run_tool(*command, '--query', '2', '5', '--head', 'mean', '3')
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        f'photo_queries_0_{head}.{suffix}' for head in ('head3', 'mean') for suffix in (
            'npz', 'png')]
    written = np.load(tmp_path / 'out' / 'photo_queries_0_mean.npz')
    assert written['queries'].tolist() == [2, 5]
    np.testing.assert_allclose(written['after'].sum(axis=(1, 2)), 1, rtol=1e-5)
