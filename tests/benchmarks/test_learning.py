"""docs/results.md and its pictures, from a ledger."""
import json

import pytest

from benchmarks import learning
from mmcontainer.cli.reproduce_ledger import LEDGER

VERSIONS = dict(torch='2.12')


def entry(row, value, run, metric='accuracy/top1', **more):
    return dict(row=row, found={metric: value}, run=run, seconds=dict(train=600.), threads=2,
                hardware='2 cores of a CPU', date='2026-11-29T10:00:00+00:00', versions=VERSIONS,
                **more)


@pytest.fixture
def sections(tmp_path):
    ledger = tmp_path / 'ledger.jsonl'
    entries = [
        entry('imagenette_container_light', 70., '1', curve=[[1, 30.], [2, 60.], [4, 70.]]),
        entry('imagenette_container_light', 72., '2', changes={'randomness.seed': 1}),
        entry('imagenette_container_light', 99., '3',
              changes={'optim_wrapper.optimizer.lr': 1.}),
        entry('imagenette_container_light', 1., '4', small=True),
        entry('imagenette_r50', 75.5, '5', curve=[[2, 50.], [4, 75.5]]),
        entry('bccd_r50', 20., '6', metric='coco/bbox_mAP')]
    ledger.write_text(''.join(f'{json.dumps(one)}\n' for one in entries))
    return {one.key: one for one in learning.load_experiments(ledger)}


def test_a_table_has_the_best_first_and_only_what_belongs_to_it(sections):
    lines = list(learning.render_experiment(sections['table_1']))
    table = [line for line in lines if line.startswith('| ')]
    assert table[1:] == [
        '| ResNet-50 | 75.5 | 50.0 | 20 | - |',
        '| Container-Light | 71.0 ± 1.4 (2 seeds) | 60.0 | 20 | 82.0 |']
    assert 'Where: 2 cores of a CPU, torch 2.12, 2026-11-29.' in lines
    assert 'Not run yet: Container; DW-3; DeiT-S.' in lines
    assert lines[-2:] == ['python tools/reproduce.py imagenette_deit_s --data-root DIR', '```']
    table = list(learning.render_experiment(sections['table_4']))
    assert '| ResNet-50 | 20.0 | - | 20 | 36.5 |' in table
    assert not any('.png' in line for line in table)


def test_a_picture_needs_two_curves(sections):
    figure = learning.draw(sections['table_1'])
    by_epoch, by_minute = figure.axes
    assert [line.get_label() for line in by_epoch.lines] == ['ResNet-50', 'Container-Light']
    assert list(by_epoch.lines[1].get_xdata()) == [25., 50., 100.]
    assert list(by_minute.lines[1].get_xdata()) == [5., 10., 20.]
    assert learning.draw(sections['table_4']) is None


def test_the_page_is_up_to_date(repo_root):
    experiments = learning.load_experiments(repo_root / LEDGER)
    assert learning.PAGE.read_text(encoding='utf-8') == learning.render(experiments), (
        'run python -m benchmarks.learning')
    for experiment in experiments:
        assert (learning.draw(experiment) is not None) == learning.picture_path(experiment).exists()
