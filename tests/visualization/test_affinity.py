"""The numbers behind the affinity figures, the figures, and the tool that writes them."""
import json
from argparse import Namespace

import cv2
import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmcontainer.backbones import Container, ContainerPAM
from mmcontainer.errors import UserError
from mmcontainer.visualization.affinity import (
    Position,
    collect_rows,
    default_positions,
    find_layers,
    list_mixtures,
    parse_position,
)
from mmcontainer.visualization.affinity_figures import draw_mixtures, draw_rows
from mmcontainer.visualization.affinity_report import visualize_affinity
from mmcontainer.visualization.network_input import prepare_image

DEPTHWISE = dict(kind='depthwise', kernel_size=3)
# Static affinity alone in the first stage, both in the second.
ARCH = dict(embed_dims=(8, 16), depths=(1, 2), mlp_ratios=(1, 1), patch_sizes=(4, 2),
            num_heads=(None, 4), static=DEPTHWISE)
PAM = dict(embed_dims=(16, ), depths=(2, ), mlp_ratios=(1, ), patch_sizes=(16, ), num_heads=(2, ),
           static=dict(kind='dense'), image_size=64)
DETECTION = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(120, 80), keep_ratio=True),
             dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
CLASSIFICATION = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=80, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=64), dict(type='PackInputs')]
PREPROCESSOR = {
    'mmdet': dict(type='DetDataPreprocessor', mean=[100.] * 3, std=[50.] * 3, bgr_to_rgb=True,
                  pad_size_divisor=32),
    'mmpretrain': dict(type='ClsDataPreprocessor', mean=[100.] * 3, std=[50.] * 3, to_rgb=True)}
PIPELINES = {'mmdet': DETECTION, 'mmpretrain': CLASSIFICATION}


def make_config(scope='mmdet', arch=None, pipeline=None):
    """A config with a bare backbone."""
    return Config(dict(
        default_scope=scope, data_preprocessor=PREPROCESSOR[scope],
        model=dict(backbone=dict(type='Container', arch=arch or ARCH)),
        test_dataloader=dict(dataset=dict(pipeline=pipeline or PIPELINES[scope]))))


def make_backbone(arch=ARCH, **kwargs):
    torch.manual_seed(0)
    cls = ContainerPAM if arch == PAM else Container
    backbone = cls(arch, **kwargs).eval()
    for name, parameter in backbone.named_parameters():
        if 'mix_logit' in name:
            parameter.data.normal_()
    return backbone


def write_image(path, height=100, width=160, seed=0):
    picture = np.random.default_rng(seed).integers(0, 80, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(path), picture)
    return path


@pytest.fixture
def prepare(tmp_path):
    """Return a function: an image file, as the network of a scope sees it."""

    def run(scope='mmdet', path=None, pipeline=None):
        path = path or write_image(tmp_path / 'image.png')
        cfg = make_config(scope, pipeline=pipeline)
        with DefaultScope.overwrite_default_scope(scope):
            return prepare_image(cfg, MODELS.build(cfg.data_preprocessor), path)

    return run


@pytest.mark.parametrize(('scope', 'size', 'seen'), [
    # Resized to 120 x 75 and padded to 128 x 96; to 80 x 80 of 64 x 96; to 80 x 128 and cropped.
    ('mmdet', (100, 160), (1, 1, 158, 98)), ('mmdet', (150, 100), (1, 1, 98, 148)),
    ('mmpretrain', (100, 160), (42, 12, 118, 88)), ('mmpretrain', (160, 100), (12, 42, 88, 118))])
def test_positions_find_their_pixels(prepare, tmp_path, scope, size, seen):
    """A bright block drawn into the file lights up the input where its position is said to be."""
    height, width = size
    x1, y1, x2, y2 = seen
    for x, y in ((x1, y1), (x2, y2), (x1, y2), (30 + x1, 20 + y1)):
        picture = np.zeros((height, width, 3), np.uint8)
        cv2.circle(picture, (x, y), 4, (255, 255, 255), -1)
        cv2.imwrite(str(tmp_path / 'dot.png'), picture)
        image = prepare(scope, tmp_path / 'dot.png')
        assert image.file_size == size
        shown = image.inputs[0].mean(dim=0) - image.inputs.min()
        shown[image.picture.shape[0]:], shown[:, image.picture.shape[1]:] = 0, 0
        position = parse_position(f'{x},{y}', image, False)
        column, row = image.geometry.to_input(position.place)
        assert shown[int(row), int(column)] > 0.8 * shown.max()
        rows, columns = np.nonzero(shown.numpy() > 0.5 * float(shown.max()))
        reach = 4 * image.geometry.scale[0] + 1
        assert abs(rows + 0.5 - row).max() <= reach and abs(columns + 0.5 - column).max() <= reach
        assert image.geometry.to_file((column, row)) == pytest.approx(position.place)


def test_content_and_padding(prepare):
    image = prepare('mmdet')
    assert image.inputs.shape == (1, 3, 96, 128) and image.picture.shape == (75, 120, 3)
    assert image.content == pytest.approx((0, 0, 120, 75))
    image = prepare('mmpretrain')
    assert image.inputs.shape == (1, 3, 64, 64) and image.content == (0, 0, 64, 64)
    assert image.geometry.offset == pytest.approx([-32, -8])
    padded = prepare('mmdet', pipeline=[*DETECTION[:2], dict(type='Pad', size=(128, 100)),
                                        DETECTION[-1]])
    assert padded.picture.shape == (100, 128, 3)
    assert padded.content == pytest.approx((0, 0, 120, 75))


def test_unknown_geometry_is_refused(prepare):
    for step, message in ((dict(type='RandomFlip', prob=1.), 'flips'),
                          (dict(type='RandomCrop', crop_size=(40, 40)), 'RandomCrop, which chang')):
        with pytest.raises(UserError, match=message):
            prepare('mmdet', pipeline=[DETECTION[0], step, DETECTION[-1]])


def full_matrices(backbone, image, layer):
    """All rows of a block, from the input that it gets."""
    module = dict(backbone.named_modules())[layer]
    kept = []
    handle = module.register_forward_pre_hook(lambda module, args: kept.append(args))
    with torch.no_grad():
        backbone(image.inputs)
        handle.remove()
        return module.affinities(*kept[0])


def rows_of(image, selection, layer='1.1', positions=None, backbone=None):
    backbone = backbone or make_backbone()
    mixtures = find_layers(list_mixtures(backbone), [layer])
    (rows, ) = collect_rows(
        backbone, image, mixtures, positions or default_positions(image), [selection])
    return rows


@pytest.mark.parametrize(('selection', 'dynamic', 'static'), [
    ('mean', slice(0, 4), slice(0, 16)),
    ('head 2', slice(2, 3), slice(8, 12)),
    ('channel 13', slice(3, 4), slice(13, 14))])
def test_rows_equal_those_of_the_whole_matrix(prepare, selection, dynamic, static):
    image, backbone = prepare(), make_backbone()
    # The input is 96 x 128 and the stride 8: pixel (150, 60) is at 0.75 of that in the input.
    positions = [parse_position(text, image, False) for text in ('0,0', '150,60', '50%,50%')]
    rows = rows_of(image, selection, positions=positions, backbone=backbone)
    assert rows.cells.tolist() == [[0, 0], [5, 14], [4, 7]] and rows.stride == 8
    assert rows.grid_size == (12, 16)
    indices = rows.cells @ [16, 1]
    full = full_matrices(backbone, image, 'stages.1.blocks.1.aggregation')
    expected = dict(dynamic=full.dynamic[0, dynamic], static=full.static[static],
                    mixed=full.mixed[0, static])
    for name, matrix in expected.items():
        torch.testing.assert_close(torch.from_numpy(rows.maps[name]).flatten(1),
                                   matrix.mean(dim=0)[indices])
    mixture = rows.mixture
    weight = backbone.stages[1].blocks[1].aggregation.mix_logit.detach()
    assert mixture.alpha == pytest.approx(float(weight.sigmoid())) and mixture.learned
    np.testing.assert_allclose(rows.sums('dynamic'), 1, rtol=1e-5)
    np.testing.assert_allclose(
        rows.maps['mixed'],
        mixture.alpha * rows.maps['dynamic'] + (1 - mixture.alpha) * rows.maps['static'], atol=1e-6)
    # The kernel lies around the position's cell, and is cut at the border of the map.
    for index, (row, column) in enumerate(rows.cells):
        window = np.zeros(rows.grid_size, bool)
        window[max(row - 1, 0):row + 2, max(column - 1, 0):column + 2] = True
        assert ((rows.maps['static'][index] != 0) == window).all()


def test_class_token(prepare):
    image, backbone = prepare(), make_backbone(PAM)
    positions = [parse_position('cls', image, True), parse_position('50,40', image, False)]
    rows = rows_of(image, 'head 1', '0.1', positions, backbone)
    assert rows.cells.tolist() == [[-1, -1], [1, 2]] and rows.grid_size == (6, 8)
    full = full_matrices(backbone, image, 'stages.0.blocks.1.attention')
    for name, matrix in zip(rows.maps, (full.dynamic[0], full.static, full.mixed[0])):
        expected = matrix[1, [0, 1 + 1 * 8 + 2]]
        torch.testing.assert_close(torch.from_numpy(rows.class_token[name]), expected[:, 0])
        torch.testing.assert_close(torch.from_numpy(rows.maps[name]).flatten(1), expected[:, 1:])
    np.testing.assert_allclose(rows.sums('dynamic'), 1, rtol=1e-5)
    np.testing.assert_allclose(rows.maps['mixed'], rows.maps['dynamic'] + rows.maps['static'],
                               atol=1e-6)
    assert rows.mixture[2:5] == (1, 1, False)


def test_one_affinity_alone(prepare):
    rows = rows_of(prepare(), 'mean', '0.0')
    assert list(rows.maps) == ['static'] and rows.mixture[2:5] == (0, 1, False)
    rows = rows_of(prepare(), 'head 1', '0.0',
                   backbone=make_backbone({**ARCH, 'num_heads': (2, 2), 'static': None}))
    assert list(rows.maps) == ['dynamic'] and rows.mixture[2:5] == (1, 0, False)


def check_texts(figure):
    """Nothing leaves the figure, and no two headings overlap."""
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    box = figure.get_tightbbox(renderer)
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
    titles = [axes.title.get_window_extent(renderer) for axes in figure.axes if axes.get_title()]
    for index, box in enumerate(titles):
        assert not any(box.overlaps(other) for other in titles[:index])


@pytest.mark.parametrize(('arch', 'layer', 'size'), [
    (ARCH, '1.0', (100, 160)), (ARCH, '1.1', (320, 100)), (ARCH, '0.0', (60, 400)),
    (PAM, '0.0', (100, 160))])
def test_figure_of_rows(prepare, tmp_path, arch, layer, size):
    image = prepare(path=write_image(tmp_path / 'image.png', *size))
    rows = rows_of(image, 'mean', layer, backbone=make_backbone(arch))
    figure = draw_rows(rows, image, 'a title\nin two lines')
    panels = [axes for axes in figure.axes if axes.images]
    lines, columns = len(rows.positions), 1 + len(rows.maps)
    panels = np.array(panels[:lines * columns], dtype=object).reshape(lines, columns)
    for line in range(lines):
        for panel, name in zip(panels[line, 1:], rows.maps):
            drawn, values = panel.images[1], rows.maps[name][line]
            np.testing.assert_array_equal(drawn.get_array().filled(0), values)
            width, height = (side * rows.stride for side in rows.grid_size[::-1])
            assert drawn.get_extent() == [0, width, height, 0]
            limit = abs(values).max()
            if name == 'mixed' and arch is ARCH:  # the kernel alone is beyond the colours
                limit = values[rows.maps['static'][line] == 0].max()
            assert drawn.norm.vmax == pytest.approx(limit)
            centred = drawn.norm.vmin == pytest.approx(-drawn.norm.vmax)
            assert centred == bool((rows.maps[name] < 0).any())
            assert f'sum {values.sum() + rows.class_token.get(name, [0] * lines)[line]:.3f}' in (
                panel.get_title())
    check_texts(figure)


@pytest.mark.parametrize('arch', [ARCH, PAM, 'light'])
def test_figure_of_mixtures(arch):
    backbone = make_backbone(arch)
    mixtures = list_mixtures(backbone)
    figure = draw_mixtures(mixtures, 'a title')
    axes = figure.axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    expected = []
    for module in backbone.modules():
        if hasattr(module, 'mix_logit'):
            alpha = float(module.mix_logit.detach().sigmoid())
            expected += [alpha, 1 - alpha]
        elif hasattr(module, 'affinities'):
            expected += [1, 1] if arch is PAM else [0, 1]
    assert heights == pytest.approx(expected)
    assert [bool(bar.get_hatch()) for bar in axes.patches[::2]] == [
        not mixture.learned for mixture in mixtures]
    assert len([text for text in axes.texts if text.get_text().startswith('stage ')]) == len(
        backbone.strides)
    check_texts(figure)


def write_run(folder, **kwargs):
    """A config, a checkpoint of a whole model, and an image: the tool's arguments."""
    cfg = make_config(**kwargs)
    cfg.dump(str(folder / 'config.py'))
    backbone = make_backbone(cfg.model.backbone.arch)
    weights = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    weights['bbox_head.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=weights), folder / 'model.pth')
    write_image(folder / 'image.png')
    return backbone, dict(
        config=str(folder / 'config.py'), checkpoint=str(folder / 'model.pth'),
        image=str(folder / 'image.png'), layer=None, position=None, head=None,
        channel=None, query=None, out_dir=str(folder / 'out'), device='cpu', cfg_options=None)


@pytest.mark.parametrize(('changed', 'message'), [
    (dict(image='gone.jpg'), 'no image gone.jpg'),
    (dict(image='CONFIG'), 'cannot be read as an image'),
    (dict(config='gone.py'), 'no config file gone.py'),
    (dict(checkpoint='gone.pth'), 'no file gone.pth'),
    (dict(layer=['3.0']), r'--layer 3.0: .*\n(.*\n)*.*1\.1 .*stages\.1\.blocks\.1: self-att'),
    (dict(position=['160,0']), r'--position 160,0: outside .* x from 0 to 159, y from 0 to 99'),
    (dict(position=['12']), '--position 12: expected x,y in pixels'),
    (dict(position=['a,b']), '--position a,b: expected x,y in pixels'),
    (dict(position=['cls']), 'no class token'),
    (dict(head=[4]), r'--head 4: this block has 4 heads, 0 to 3'),
    (dict(head=[-1]), r'--head -1: this block has 4 heads'),
    (dict(channel=[16]), r'--channel 16: this block has 16 channels'),
    (dict(device='cuda:99'), 'device cuda:99 is not available'),
    (dict(cfg_options={'model.backbone': dict(_delete_=True, type='mmdet.ResNet', depth=18)}),
     'ResNet has no blocks with an affinity'),
    (dict(cfg_options={'model.backbone.arch.static': dict(
        _delete_=True, kind='conv', kernel_size=3)}), 'No block .* has an affinity matrix'),
])
def test_mistakes(tmp_path, changed, message):
    arguments = write_run(tmp_path)[1]
    changed = {key: arguments['config'] if value == 'CONFIG' else value
               for key, value in changed.items()}
    with DefaultScope.overwrite_default_scope('mmdet'), pytest.raises(
            (UserError, FileNotFoundError), match=message):
        visualize_affinity(Namespace(**{**arguments, **changed}))
    assert not (tmp_path / 'out').exists()


def test_crop_and_last_strip(prepare):
    image = prepare('mmpretrain')
    with pytest.raises(UserError, match='--position 10,50: outside .* x from 40 to 119'):
        rows_of(image, 'mean', positions=[parse_position('10,50', image, False)])
    image = prepare('mmdet', pipeline=[DETECTION[0], DETECTION[-1]])._replace(
        inputs=torch.zeros(1, 3, 100, 160))
    with pytest.raises(UserError, match='cells of 8 x 8: .* y from 0 to 95'):
        rows_of(image, 'mean', positions=[Position('5,98', (5.5, 98.5))])


def run_on(run, arguments, *options):
    return run('visualize_affinity.py',
               *(arguments[name] for name in ('config', 'checkpoint', 'image')), *options,
               '--out-dir', arguments['out_dir'], '--device', 'cpu')


@pytest.mark.slow
def test_tool_on_a_detector(launch_tool, tmp_path):
    backbone, arguments = write_run(tmp_path)
    output = run_on(launch_tool, arguments, '--layer', 'stages.0.blocks.0', '1.0', '--position',
                    '20,30', '75%,25%', '--head', 'mean', '1')
    assert 'stages.0.blocks.0, head 1 (no dynamic affinity in this block)' in output
    names = [f'image_{name}' for name in ('0.0_mean', '0.0_head1', '1.0_mean', '1.0_head1')]
    files = [*(f'{name}.{kind}' for name in names for kind in ('png', 'npz')),
             'image_alpha.png', 'image_alpha.json']
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(files)
    for name in (*names, 'image_alpha'):
        picture = matplotlib.image.imread(tmp_path / 'out' / f'{name}.png')[..., :3]
        # Nothing is cut: the outermost pixels are the background.
        assert (picture[[0, -1]] == 1).all() and (picture[:, [0, -1]] == 1).all()
    numbers = np.load(tmp_path / 'out' / 'image_1.0_head1.npz')
    assert numbers['cells'].tolist() == [[2, 1], [2, 11]] and numbers['stride'] == 8
    np.testing.assert_allclose(numbers['positions'], [[20.5, 30.5], [120, 25]])
    np.testing.assert_allclose(numbers['dynamic'].sum(axis=(1, 2)), 1, rtol=1e-5)
    kernels = backbone.stages[1].blocks[0].aggregation.static.weight.detach()
    np.testing.assert_allclose(numbers['static'][0, 1:4, :3], kernels[4:8, 0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        numbers['mixed'],
        numbers['alpha'] * numbers['dynamic'] + numbers['beta'] * numbers['static'], atol=1e-6)
    blocks = json.loads((tmp_path / 'out' / 'image_alpha.json').read_text())['blocks']
    assert [block['layer'] for block in blocks] == [
        'stages.0.blocks.0', 'stages.1.blocks.0', 'stages.1.blocks.1']
    weights = [block.aggregation.mix_logit for block in backbone.stages[1].blocks]
    assert [block['alpha'] for block in blocks] == pytest.approx(
        [0, *(float(weight.detach().sigmoid()) for weight in weights)])


@pytest.mark.slow
def test_tool_on_a_classifier(run_tool, tmp_path):
    _, arguments = write_run(tmp_path, scope='mmpretrain', arch=PAM)
    model = ("\nmodel.update(type='ImageClassifier', head=dict(type='LinearClsHead', "
             'num_classes=2, in_channels=16))\n'
             "model['backbone'].update(type='ContainerPAM', out_type='cls_token')\n")
    with open(arguments['config'], 'a') as file:
        file.write(model)
    run_on(run_tool, arguments, '--position', 'cls', '50%,50%')
    numbers = np.load(tmp_path / 'out' / 'image_0.1_mean.npz')
    assert numbers['cells'].tolist() == [[-1, -1], [2, 2]]
    assert numbers['dynamic'].shape == (2, 4, 4)
    np.testing.assert_allclose(
        numbers['dynamic'].sum(axis=(1, 2)) + numbers['dynamic_class_token'], 1, rtol=1e-5)


def test_grey_images(tmp_path):
    """A backbone with one channel, and the picture that is drawn on."""
    cfg = make_config(pipeline=[dict(type='LoadImageFromFile', color_type='grayscale'),
                                *DETECTION[1:]])
    cfg.data_preprocessor.update(mean=[100.], std=[50.], bgr_to_rgb=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        image = prepare_image(cfg, MODELS.build(cfg.data_preprocessor),
                              write_image(tmp_path / 'image.png'))
    assert image.inputs.shape[1] == 1 and image.picture.shape[2] == 3
    assert (image.picture == image.picture[..., :1]).all()
    backbone = make_backbone(in_channels=1)
    rows = collect_rows(backbone, image, find_layers(list_mixtures(backbone), None),
                        default_positions(image), ['mean'])
    assert len(rows) == 1 and np.isfinite(rows[0].maps['mixed']).all()
    draw_rows(rows[0], image, 'grey')
