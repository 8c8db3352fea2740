"""MMDetection's tools: mistakes in their pictures, mended, and how they read checkpoints."""
import time
import warnings
from pathlib import Path
from zipfile import is_zipfile

import matplotlib
import pytest
import torch
from matplotlib import pyplot
from mmengine.logging import HistoryBuffer

from mmcontainer.checkpoints import files
from mmcontainer.checkpoints.files import load_file
from mmcontainer.cli.mmdet_tools import make_figures_readable, read_files_safely
from mmcontainer.errors import UserError
from mmcontainer.torch_compat import HAS_SAFE_LOAD


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


@pytest.fixture
def checkpoint(tmp_path):
    """Path of what MMEngine saves in a training: NumPy's numbers lie beside the weights."""
    history = HistoryBuffer()
    history.update(0.5, 1)
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=dict(weight=torch.arange(3.)), optimizer=dict(state={}),
                    message_hub=dict(log_scalars=dict(loss=history)), meta=dict(epoch=1)), path)
    return path


def test_a_checkpoint_is_published(checkpoint, run_tool, tmp_path):
    """With every PyTorch, without running code of the file."""
    run_tool('mmdet_tool.py', 'publish_model', checkpoint, tmp_path / 'out.pth')
    for _ in range(100):  # the tool does not wait for the `mv` that it starts
        if not (tmp_path / 'out.pth').exists():
            break
        time.sleep(0.1)
    file, = tmp_path.glob('out-*.pth')
    content = load_file(file)
    assert set(content) == {'state_dict', 'meta'}
    assert content['state_dict']['weight'].tolist() == [0, 1, 2]


def test_an_unsafe_checkpoint_is_not_published(run_tool, tmp_path):
    torch.save(dict(state_dict={}, meta=Path('any')), tmp_path / 'unsafe.pth')
    output = run_tool('mmdet_tool.py', 'publish_model', tmp_path / 'unsafe.pth', 'out.pth',
                      code=1 if HAS_SAFE_LOAD else 2)
    assert 'Unsupported global' in output if HAS_SAFE_LOAD else 'is refused' in output


def test_how_an_old_pytorch_reads_and_writes(checkpoint, monkeypatch, tmp_path):
    """Here with any: what is replaced, and what is not."""
    for name in ('load', 'save'):
        monkeypatch.setattr(torch, name, getattr(torch, name))
    monkeypatch.setattr(files, 'HAS_SAFE_LOAD', False)
    read_files_safely()
    torch.save(torch.load(checkpoint, map_location='cpu'), tmp_path / 'new.pth',
               _use_new_zipfile_serialization=False)
    assert is_zipfile(tmp_path / 'new.pth')
    assert torch.load(str(tmp_path / 'new.pth'))['meta'] == dict(epoch=1)
    with pytest.raises(UserError, match='There is no file .*gone.pth'):
        torch.load(tmp_path / 'gone.pth')
