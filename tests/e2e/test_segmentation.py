"""From generated shapes to segmentation maps of every class, as a user does it."""
import pickle
import re

import cv2
import numpy as np
import pytest
from tool_server import Tools

from mmcontainer.demo import MAP_CLASSES, ShapesParams, generate_shapes, write_maps

pytest.importorskip('mmseg', reason='needs MMSegmentation: make test-seg')
pytestmark = pytest.mark.slow

ITERATIONS, INTERVAL = 800, 400
PARAMS = ShapesParams(num_train=1000, num_val=40, size=64)
ARCH = dict(
    embed_dims=(32, 64, 96, 128), depths=(1, 1, 2, 1), mlp_ratios=(4, 4, 4, 4),
    patch_sizes=(4, 2, 2, 2), num_heads=(None, None, None, 2),
    static=dict(kind='depthwise', kernel_size=5))
CONFIG = f"""
_base_ = 'mmcontainer::fpn/container_light_demo_shapes.py'

model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(type='Container', arch={ARCH}),
    neck=dict(in_channels={list(ARCH['embed_dims'])}))
optim_wrapper = dict(optimizer=dict(lr=2e-3))
warmup, poly = _base_.param_scheduler
poly.end = {ITERATIONS}
param_scheduler = [warmup, poly]
train_cfg = dict(max_iters={ITERATIONS}, val_interval={INTERVAL})
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval={INTERVAL}))
log_processor = dict(window_size=1)
"""


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    """The generated data set with maps."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    generate_shapes(root, PARAMS)
    write_maps(root)
    return root


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A small model of the demo's config, as a file."""
    path = tmp_path_factory.mktemp('config') / 'shapes_fpn.py'
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope='module')
def segmenter(shapes, config, tmp_path_factory, tool_server):
    """Train once: (work dir, output)."""
    work_dir = tmp_path_factory.mktemp('segmenter')
    output = Tools(work_dir, tool_server)('train.py', config, '--data-root', shapes, '--work-dir',
                                          work_dir, timeout=900)
    return work_dir, output


def tables(output):
    """IoU by class, of every evaluation."""
    rows = re.findall(r'^\| +(\w+) +\| +([\d.]+|nan) +\| +(?:[\d.]+|nan) +\|$', output, re.M)
    rows = [(name, float(value)) for name, value in rows]
    size = len(MAP_CLASSES)
    assert rows and len(rows) % size == 0
    return [dict(rows[start:start + size]) for start in range(0, len(rows), size)]


def read_maps(folder):
    return {path.stem: cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            for path in sorted(folder.glob('*.png'))}


def iou_of_a_constant(maps, label):
    """IoU in percent of every class if every pixel is predicted as ``label``."""
    share = np.mean([(values == label).mean() for values in maps.values()])
    return {name: 100 * share if number == label else 0.
            for number, name in enumerate(MAP_CLASSES)}


def test_it_learns_every_class(segmenter, shapes, read_losses):
    """Better, class by class, than to predict the most frequent one everywhere."""
    work_dir, output = segmenter
    maps = read_maps(shapes / 'maps' / 'val')
    pixels = np.bincount(np.concatenate([values.ravel() for values in maps.values()]))
    constant = iou_of_a_constant(maps, int(pixels.argmax()))
    last = tables(output)[-1]
    assert len(tables(output)) == ITERATIONS // INTERVAL and set(last) == set(MAP_CLASSES)
    assert all(last[name] > constant[name] + 5 for name in MAP_CLASSES), (last, constant)
    mean, baseline = (np.mean(list(each.values())) for each in (last, constant))
    assert mean > 2 * baseline, (mean, baseline)
    losses = read_losses(work_dir)
    assert len(losses) == ITERATIONS
    assert sorted(path.name for path in work_dir.glob('*.pth')) == [
        'iter_400.pth', 'iter_800.pth']


def test_evaluation_equals_the_last_of_training(segmenter, config, shapes, run_tool, tmp_path):
    work_dir, training = segmenter
    output = run_tool('test.py', config, work_dir / f'iter_{ITERATIONS}.pth', '--data-root', shapes,
                      '--out', 'out.pkl', '--show-dir', 'drawn')
    table, = tables(output)
    assert table == pytest.approx(tables(training)[-1], abs=0.02)
    results = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    maps = read_maps(shapes / 'maps' / 'val')
    assert len(results) == len(maps) and all('seg_logits' not in result for result in results)
    # The metric, computed again from what was written.
    predicted = {re.search(r'(\d+)\.jpg$', result['img_path'])[1]:
                 result['pred_sem_seg']['data'].squeeze().numpy() for result in results}
    for number, name in enumerate(MAP_CLASSES):
        both = sum(((predicted[key] == number) & (maps[key] == number)).sum() for key in maps)
        either = sum(((predicted[key] == number) | (maps[key] == number)).sum() for key in maps)
        assert 100 * both / either == pytest.approx(table[name], abs=0.01)
    drawn = sorted(path.name for path in (tmp_path / 'drawn').glob('*.jpg'))
    assert drawn == [f'{key}.jpg' for key in maps]
    height, width = cv2.imread(str(tmp_path / 'drawn' / drawn[0])).shape[:2]
    assert width >= 2 * 64 and height >= 64, 'truth and prediction, side by side'


def test_resuming(segmenter, config, shapes, run_tool, tmp_path, read_losses):
    """The last iterations again, from the checkpoint before them: the same losses."""
    work_dir, training = segmenter
    output = run_tool('train.py', config, '--data-root', shapes, '--work-dir', 'again', '--resume',
                      work_dir / f'iter_{INTERVAL}.pth', timeout=900)
    whole, again = read_losses(work_dir), read_losses(tmp_path / 'again')
    assert len(again) == ITERATIONS - INTERVAL
    assert again == {iteration: whole[iteration] for iteration in again}
    assert tables(output)[-1] == tables(training)[-1]


def test_what_is_wrong_is_said_before_training(segmenter, config, shapes, run_tool):
    """Data that is not there, and a checkpoint of other classes."""
    output = run_tool('train.py', config, '--data-root', 'nowhere', code=2)
    assert 'nowhere/maps/train/: missing' in output and '--maps' in output
    names = '[nothing,circle,square,triangle,ring]'
    output = run_tool(
        'test.py', config, segmenter[0] / f'iter_{ITERATIONS}.pth', '--data-root', shapes,
        '--cfg-options', f'test_dataloader.dataset.metainfo.classes={names}', code=2)
    assert 'was trained on other classes' in output
    output = run_tool('train.py', config, '--data-root', shapes, '--cfg-options',
                      'model.decode_head.num_classes=150', code=2)
    assert 'model.decode_head.num_classes=150' in output
