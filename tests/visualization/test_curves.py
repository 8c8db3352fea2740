"""Curves from mmengine's log."""
import json

import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest

from mmcontainer.visualization.curves import PublishedCurve, draw_curves, read_scalars, smooth


def write_log(path, num_train=40, num_val=4):
    lines = []
    for i in range(num_train):
        done = i / num_train
        lines.append(dict(lr=1e-3, loss=2 - done, loss_cls=1.0, loss_bbox=1 - done, epoch=1,
                          iter=10 * (i + 1), step=10 * (i + 1)))
        if num_val and (i + 1) % (num_train // num_val) == 0:
            epoch = (i + 1) // (num_train // num_val)
            lines.append({'coco/bbox_mAP': 0.1 * epoch, 'coco/bbox_mAP_50': 0.15 * epoch,
                          'coco/bbox_mAP_l': -1.0, 'step': epoch})
    path.write_text('\n'.join(json.dumps(line) for line in lines) + '\n')


def test_read_scalars_separates_training_from_validation(tmp_path):
    write_log(tmp_path / 'scalars.json')
    train, val = read_scalars(tmp_path / 'scalars.json')
    assert [record['step'] for record in train] == list(range(10, 410, 10))
    assert [record['step'] for record in val] == [1, 2, 3, 4]
    assert val[3]['coco/bbox_mAP'] == pytest.approx(0.4)


@pytest.mark.parametrize('content, message', [
    ('', 'no training record'),
    ('{"coco/bbox_mAP": 0.1, "step": 1}\n', 'no training record'),
    ('{"loss": 1, "step": 1}\n{"loss": 2, "st', 'line 2: expected a JSON object'),
    ('[1, 2]\n', 'line 1: expected a JSON object'),
    ('3\n', 'line 1: expected a JSON object'),
])
def test_what_is_no_log_is_named(tmp_path, content, message):
    (tmp_path / 'scalars.json').write_text(content)
    with pytest.raises(ValueError, match=message):
        read_scalars(tmp_path / 'scalars.json')


def test_missing_log(tmp_path):
    with pytest.raises(FileNotFoundError):
        draw_curves(tmp_path / 'scalars.json', tmp_path / 'curves.png')
    assert list(tmp_path.iterdir()) == []


def test_smooth_is_the_weighted_mean_it_says():
    values = np.random.RandomState(0).rand(30)
    keep = 1 - 2 / (9 + 1)
    expected = [np.average(values[:i + 1], weights=keep**np.arange(i, -1, -1)) for i in range(30)]
    np.testing.assert_allclose(smooth(values, 9), expected, rtol=1e-12)
    np.testing.assert_allclose(smooth(np.full(20, 3.0), 5), 3.0)
    np.testing.assert_array_equal(smooth(values, 1), values)


@pytest.mark.parametrize('num_val', [0, 4])
def test_draw_curves(tmp_path, num_val):
    write_log(tmp_path / 'scalars.json', num_val=num_val)
    draw_curves(tmp_path / 'scalars.json', tmp_path / 'curves.png', title='a run')
    picture = matplotlib.image.imread(tmp_path / 'curves.png')[..., :3]
    height, width = picture.shape[:2]
    assert width > 800 and height > 300
    # The colour of the first line of each panel (tab:blue) is there: loss left, AP right.
    blue = np.abs(picture - np.array([0x1f, 0x77, 0xb4]) / 255).max(-1) < 0.02
    assert blue[:, :width // 2].sum() > 100
    assert (blue[:, width // 2:].sum() > 50) == (num_val > 0)
    # Nothing is cut: the outermost pixels are the background.
    assert (picture[[0, -1]] == 1).all() and (picture[:, [0, -1]] == 1).all()


def drawn_axes(monkeypatch, tmp_path, **options):
    """The two panels of a picture, and their lines by label."""
    figures = []
    monkeypatch.setattr(matplotlib.figure.Figure, 'savefig',
                        lambda figure, *args, **kwargs: figures.append(figure))
    draw_curves(tmp_path / 'scalars.json', tmp_path / 'curves.png', **options)
    panels = figures[0].axes
    return panels, [{line.get_label(): line for line in axes.lines} for axes in panels]


def test_published_points_lie_under_the_run(tmp_path, monkeypatch):
    write_log(tmp_path / 'scalars.json')  # 400 iterations, 4 epochs
    published = PublishedCurve(
        loss={100: 1.5, 300: 1.2, 500: 1.1, 900: 1.},
        ap={'coco/bbox_mAP': {2: 0.15, 5: 0.25, 12: 0.4}, 'coco/segm_mAP': {5: 0.2}})
    panels, (loss, ap) = drawn_axes(monkeypatch, tmp_path, published=published)
    # Up to the first point that the run has not reached: what comes later would squeeze the run.
    np.testing.assert_array_equal(loss['published'].get_xydata(), [[100, 1.5], [300, 1.2],
                                                                   [500, 1.1]])
    np.testing.assert_array_equal(ap['published AP'].get_xydata(), [[2, 0.15], [5, 0.25]])
    assert 'published mask AP' not in ap  # the run has no masks
    assert loss['published'].get_linestyle() == '--' and loss['published'].get_marker() == 'o'
    assert ap['published AP'].get_color() == ap['AP, IoU 0.50:0.95'].get_color()
    assert panels[0].get_ylim() == (0, 3)
    assert panels[0].lines[0] is loss['published'] and panels[1].get_xlim()[1] > 5
    for axes, label in zip(panels, ('published', 'published AP')):
        assert label in [text.get_text() for text in axes.get_legend().get_texts()]


def test_without_published_points_nothing_is_drawn_of_them(tmp_path, monkeypatch):
    write_log(tmp_path / 'scalars.json')
    for published in (None, PublishedCurve({}, {})):
        _, lines = drawn_axes(monkeypatch, tmp_path, published=published)
        assert not any('published' in label for panel in lines for label in panel)


def test_validations_between_iterations_have_the_iteration(tmp_path, monkeypatch):
    """MMEngine writes step 0 for each of them."""
    lines = [dict(loss=2., iter=50, step=50), {'coco/bbox_mAP': 0.1, 'step': 0},
             dict(loss=1., iter=100, step=100), {'coco/bbox_mAP': 0.2, 'step': 0}]
    (tmp_path / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    assert [record['step'] for record in read_scalars(tmp_path / 'scalars.json')[1]] == [50, 100]
    panels, _ = drawn_axes(monkeypatch, tmp_path)
    assert panels[1].get_xlabel() == 'iteration' and panels[1].get_xlim()[1] > 100
