"""docs/results.md and its pictures, from a ledger."""
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import imagenette_weights, learning
from mmcontainer.checkpoints import read_weights
from mmcontainer.cli.reproduce_ledger import LEDGER
from mmcontainer.errors import UserError

VERSIONS = dict(torch='2.12')


def entry(row, value, run, metric='accuracy/top1', **more):
    return {**dict(row=row, found={metric: value}, run=run, seconds=dict(train=600.), threads=2,
                   hardware='2 cores of a CPU', versions=VERSIONS, recipe_hash='new',
                   date='2026-11-29T10:00:00+00:00'), **more}


@pytest.fixture
def sections(tmp_path):
    ledger = tmp_path / 'ledger.jsonl'
    entries = [
        entry('imagenette_container_light', 10., '0'),  # the same seed again: the latest counts
        # Of before the recipe, or the pretrained weights, were changed.
        entry('imagenette_container_light', 5., '7', changes={'randomness.seed': 2},
              recipe_hash='old'),
        entry('imagenette_container_light', 5., '8', changes={'randomness.seed': 3},
              weights={'checkpoints/x.pth': '0123'}),
        entry('imagenette_container_light', 70., '1', curve=[[1, 30.], [2, 60.], [4, 70.]]),
        entry('imagenette_container_light', 72., '2', changes={'randomness.seed': 1},
              cpu_seconds=dict(train=2400.), date='2026-11-30T10:00:00+00:00'),
        entry('imagenette_container_light', 99., '3',
              changes={'optim_wrapper.optimizer.lr': 1.}),
        entry('imagenette_container_light', 1., '4', small=True),
        # From before recipes had hashes, and changed since.
        {key: value for key, value in entry('imagenette_deit_s', 5., '9').items()
         if key != 'recipe_hash'},
        entry('imagenette_r50', 75.5, '5', curve=[[3, 50.], [5, 75.5]], threads=None),  # a GPU
        entry('bccd_r50', 20., '6', metric='coco/bbox_mAP')]
    ledger.write_text(''.join(f'{json.dumps(one)}\n' for one in entries))
    return {one.key: one for one in learning.load_experiments(ledger)}


def test_a_table_has_the_best_first_and_only_what_belongs_to_it(sections):
    lines = list(learning.render_experiment(sections['table_1']))
    table = [line for line in lines if line.startswith('| ')]
    assert table[1:] == [
        '| ResNet-50 | 75.5 | - | 10 | 78.5 |',
        '| Container-Light | 71.0 ± 1.4 (2 seeds) | 60.0 | 40 | 82.0 |']
    assert 'Where: 2 cores of a CPU, torch 2.12, 2026-11-29, 2026-11-30.' in lines
    assert 'Not run yet: Container; DW-3; DeiT-S.' in lines
    assert lines[-2:] == ['python tools/reproduce.py imagenette_deit_s --data-root DIR', '```']
    table = list(learning.render_experiment(sections['table_4']))
    assert '| ResNet-50 | 20.0 | - | - | 36.5 |' in table
    assert not any('.png' in line for line in table)


def test_what_came_out_is_said_once_all_was_run(sections):
    part = replace(sections['table_1'], outcome='**No**: {imagenette_r50:.1f} %, {1:.1f} %.')
    whole = replace(part, runs=part.finished)
    assert '**No**: 75.5 %, 71.0 %.' in learning.render_experiment(whole)
    assert not any('**No**' in line for line in learning.render_experiment(part))


def test_a_picture_needs_two_curves(sections):
    figure = learning.draw(sections['table_1'])
    by_epoch, by_minute = figure.axes
    assert [line.get_label() for line in by_epoch.lines] == ['ResNet-50', 'Container-Light']
    assert list(by_epoch.lines[1].get_xdata()) == [25., 50., 100.]
    assert list(by_minute.lines[1].get_xdata()) == [10., 20., 40.]
    assert by_minute.lines[1].get_color() == by_epoch.lines[1].get_color()
    assert learning.draw(sections['table_4']) is None


def test_a_broken_ledger_is_named(tmp_path):
    (tmp_path / 'ledger.jsonl').write_text('{"row": "imagenette_r50", "fou\n')
    with pytest.raises(UserError, match='line 1'):
        learning.load_experiments(tmp_path / 'ledger.jsonl')


def test_the_script_on_the_page_makes_coco_files(tmp_path):
    script, = re.findall('```python\n(.*?)```', learning.render([]), re.DOTALL)
    (tmp_path / 'to_coco.py').write_text(script)
    for name, things in (('a', [('dog', 1, 2, 31, 42)]),
                         ('b', [('bus', 1, 1, 9, 9)] + [('cat', 5, 5, 9, 9)] * 2)):
        objects = ''.join(
            f'<object><name>{kind}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>'
            f'<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>'
            for kind, x1, y1, x2, y2 in things)
        (tmp_path / f'{name}.xml').write_text(
            f'<annotation><size><width>64</width><height>48</height></size>{objects}</annotation>')
    (tmp_path / 'list.txt').write_text('b\na\n')
    subprocess.run([sys.executable, 'to_coco.py', 'list.txt', '.', 'out.json', 'cat', 'dog'],
                   cwd=tmp_path, check=True)
    content = json.loads((tmp_path / 'out.json').read_text())
    assert content['images'][1] == dict(id=2, file_name='a.jpg', width=64, height=48)
    assert [box['category_id'] for box in content['annotations']] == [1, 1, 2]
    assert content['annotations'][2] == dict(
        id=3, image_id=2, iscrowd=0, category_id=2, bbox=[1., 2., 30., 40.], area=1200.)
    assert content['categories'] == [dict(id=1, name='cat'), dict(id=2, name='dog')]


def test_weights_for_detectors_keep_nothing_that_never_learned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    keys = [f'backbone.stages.{stage}.blocks.0.aggregation.static.weight' for stage in (2, 3)]
    trained = {**{key: torch.ones(8, 1, 5, 5) for key in keys}, 'head.fc.weight': torch.ones(10, 8),
               'backbone.norm.num_batches_tracked': torch.tensor(3)}
    file = tmp_path / 'work_dirs/reproduce/imagenette_container_light/epoch_8.pth'
    file.parent.mkdir(parents=True)
    torch.save(dict(state_dict=trained, optimizer=dict(state=torch.ones(1000))), file)
    imagenette_weights.write()
    found, content = read_weights('checkpoints/container_light_imagenette.pth')
    assert found.keys() == trained.keys() and content.keys() == {'state_dict'}
    assert found['head.fc.weight'].dtype == torch.half
    assert found['backbone.norm.num_batches_tracked'] == 3
    assert found[keys[0]].sum() == 8 * 25
    assert found[keys[1]].sum() == found[keys[1]][..., 1:-1, 1:-1].sum() == 8 * 9
    assert 'To train it: python tools/reproduce.py imagenette_r50' in capsys.readouterr().out


def test_the_page_is_up_to_date(repo_root):
    experiments = learning.load_experiments(repo_root / LEDGER)
    assert learning.PAGE.read_text(encoding='utf-8') == learning.render(experiments), (
        'run python -m benchmarks.learning')
    for experiment in experiments:
        assert (learning.draw(experiment) is not None) == learning.picture_path(experiment).exists()
