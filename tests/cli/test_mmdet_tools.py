"""Mistakes in the pictures of MMDetection's tools, mended."""
import warnings

import matplotlib
import pytest
from matplotlib import pyplot

from mmcontainer.cli.mmdet_tools import make_figures_readable


@pytest.fixture
def readable(monkeypatch):
    """Mend pyplot for one test."""
    monkeypatch.setattr(pyplot, 'subplots', pyplot.subplots)
    monkeypatch.setattr(pyplot, 'legend', pyplot.legend)
    with matplotlib.rc_context({'backend': 'agg'}), warnings.catch_warnings():
        make_figures_readable()
        yield
    pyplot.close('all')


@pytest.mark.parametrize('given, expected', [((1.5, 1.2), (6, 5)), ((40, 32), (40, 32)),
                                             (None, (6.4, 4.8))])
def test_few_classes_get_room(readable, given, expected):
    figure, _ = pyplot.subplots(figsize=given, dpi=50)
    assert tuple(figure.get_size_inches()) == pytest.approx(expected)


def test_a_long_legend_does_not_cover_the_curve(readable, tmp_path):
    figure, axes = pyplot.subplots()
    axes.plot([0, 1], [0, 1], label='work_dirs/a/20260101_120000/vis_data/scalars.json_loss')
    legend = pyplot.legend()
    figure.canvas.draw()
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
    pyplot.savefig(tmp_path / 'a.png')  # tight: all of the legend is in the picture
    assert pyplot.imread(tmp_path / 'a.png').shape[0] < 480
