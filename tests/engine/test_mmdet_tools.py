"""What is added to the command lines of MMDetection's tools."""
import matplotlib
from matplotlib import pyplot

from mmcontainer.engine import mmdet_tools
from mmcontainer.engine.mmdet_tools import _name_curves, _prepare_matrix


def test_curves_are_named_by_their_keys():
    command = ['plot_curve', 'runs/a/1.json', '--keys', 'loss', 'loss_cls', '--out', 'loss.png']
    assert _name_curves(command) == ['--legend', 'loss', 'loss_cls']
    command.insert(2, 'runs/b/2.json')
    assert _name_curves(command) == ['--legend', '1 loss', '1 loss_cls', '2 loss', '2 loss_cls']
    assert _name_curves([*command, '--legend', 'mine']) == []
    assert _name_curves(['cal_train_time', 'runs/a/1.json']) == []


def test_a_matrix_of_few_classes_can_be_read(monkeypatch):
    monkeypatch.setattr(pyplot, 'subplots', pyplot.subplots)  # restored afterwards
    option, name = _prepare_matrix(['config.py'])
    assert option == '--color-theme'
    # White stands out from every colour of it: contrast 4.5 and more (WCAG 2.1, 1.4.3).
    for value in (0., 0.25, 0.5, 0.75, 1.):
        channels = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055)**2.4
                    for c in matplotlib.colormaps[name](value)[:3]]
        luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), channels))
        assert 1.05 / (luminance + 0.05) > 4.5
    for size, expected in (((1.5, 1.2), mmdet_tools._SMALLEST_MATRIX), ((40., 32.), (40., 32.))):
        figure, _ = pyplot.subplots(figsize=size)
        assert tuple(figure.get_size_inches()) == expected
        pyplot.close(figure)
    assert _prepare_matrix(['config.py', '--color-theme', 'plasma']) == []
