"""The plan of ``tools/reproduce.py``: batches, commands, checks, hash; and its ledger."""
import json
import os
import re
from argparse import Namespace

import pytest
import torch

from mmcontainer.cli import reproduce, reproduce_ledger, reproduce_plan
from mmcontainer.cli.configs import load_config
from mmcontainer.cli.reproduce_ledger import append_entry, config_hash, read_ledger
from mmcontainer.cli.reproduce_plan import accumulation_options, check_plan, describe, make_plan
from mmcontainer.errors import UserError
from mmcontainer.paper.rows import load_rows


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)


def arguments(row, **changes):
    return Namespace(**{**dict(row=row, list=False, data_root=None, gpus=None, work_dir=None,
                               dry_run=True, small=False, cfg_options=None), **changes})


def plan(row, **changes):
    return make_plan(arguments(row, **changes))


@pytest.mark.parametrize('gpus, expected', [
    (8, {}),
    # The warm-up counts iterations, the rest epochs.
    (4, {'optim_wrapper.accumulative_counts': 2, 'param_scheduler.0.end': 1000}),
    (1, {'optim_wrapper.accumulative_counts': 8, 'param_scheduler.0.end': 4000}),
])
def test_fewer_gpus_accumulate(gpus, expected):
    found = plan('retinanet_container_light', gpus=gpus)
    assert found.options == expected
    assert found.images * gpus * found.accumulate == found.row.batch == 16


def test_trainings_by_iterations_get_longer():
    """What docs/cotnet.md tells to type for one GPU."""
    assert plan('mask_rcnn_cotnet_50', gpus=1).options == {
        'optim_wrapper.accumulative_counts': 8, 'train_cfg.max_iters': 720000,
        'train_cfg.val_interval': 80000, 'default_hooks.checkpoint.interval': 80000,
        'param_scheduler.0.end': 8000, 'param_scheduler.1.end': 720000,
        'param_scheduler.1.milestones': [480000, 640000],
        # Batches of each process: the 200 x 16 images of the recipe.
        'custom_hooks.2.num_iters': 1600}


def test_averages_of_weights_count_iterations_of_the_recipe():
    cfg = load_config('mmcontainer::retinanet/container_light_fpn_1x_coco.py')
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='EMAHook')]
    index = len(cfg.custom_hooks) - 1
    options = accumulation_options(cfg, 4)
    assert options[f'custom_hooks.{index}.interval'] == 4
    assert accumulation_options(cfg, 1) == {}


@pytest.mark.parametrize('gpus, changes, noted', [
    (1, {}, True), (2, {}, True), (4, {}, False),
    (1, {'train_dataloader.sampler.num_repeats': 1}, False),
    (2, {'train_dataloader.sampler.num_repeats': 2}, False)])
def test_copies_of_an_image_in_one_batch_are_noted(gpus, changes, noted):
    found = plan('imagenet_container_light', gpus=gpus, cfg_options=changes)
    lines = [line for line in describe(found) if 'RepeatAugSampler' in line]
    assert [line[:34] for line in lines] == ['note: with fewer than 3 processes,'] * noted
    assert not any('RepeatAug' in line for line in describe(
        plan('retinanet_container_light', gpus=gpus)))


@pytest.mark.parametrize('row', [row.name for row in load_rows().values() if row.config])
def test_commands_say_what_the_plan_says(row):
    """The options in the printed command give the config whose hash is noted."""
    if load_rows()[row].data == 'ADE20K':
        pytest.importorskip('mmseg', reason='needs MMSegmentation: make test-seg')
    found = plan(row, gpus=2, data_root='somewhere')
    words = found.train_command()
    assert words[:1] == ['env'] and words[3].endswith('tools/dist_train.sh') and words[5] == '2'
    assert '--resume' in words and words[words.index('--data-root') + 1] == 'somewhere'
    start = words.index('--cfg-options') + 1 if found.options else len(words)
    options = dict(word.split('=', 1) for word in words[start:])
    assert options == {key: str(value).replace(' ', '') for key, value in found.options.items()}
    again = load_config(f'mmcontainer::{found.row.config}', found.options)
    assert config_hash(again) == found.hash
    assert str(found.tested) in found.test_command()


@pytest.mark.parametrize('small', [False, True])
def test_changes_of_the_recipe_are_part_of_the_run(small):
    changes = {'randomness.seed': 3, 'optim_wrapper.optimizer.lr': 0.1, 'param_scheduler.0.end': 5}
    found = plan('retinanet_container_light', gpus=2, small=small, cfg_options=changes)
    assert found.changes == changes and found.cfg.randomness.seed == 3
    words = found.train_command()
    # Accumulation counts on from what the user wants.
    assert words[-4:] == ['randomness.seed=3', 'optim_wrapper.optimizer.lr=0.1',
                          'param_scheduler.0.end=20', 'optim_wrapper.accumulative_counts=4']
    # A model of other parts is tested with these parts.
    assert found.test_command()[-5:] == words[-5:]
    assert found.hash != plan('retinanet_container_light', gpus=2, small=small).hash
    assert found.work_dir.name == ('retinanet_container_light,seed=3,lr=0.1,end=5'
                                   + '_small' * small)
    assert any('changes the recipe' in line for line in describe(found))
    with pytest.raises(UserError, match='has no'):
        plan('retinanet_container_light', cfg_options={'randomness.sead': 3})


def test_the_best_checkpoint_is_tested_if_the_recipe_keeps_it(tmp_path):
    found = plan('imagenet_container_light')
    assert found.test_command()[3].endswith('epoch_300.pth')
    found.cfg.default_hooks.checkpoint.save_best = 'accuracy/top1'
    assert 'imagenet_container_light/best_*.pth --work' in reproduce_plan.shown(
        found.test_command())
    found.work_dir.mkdir(parents=True)
    (found.work_dir / 'best_accuracy_top1_epoch_7.pth').touch()
    # A training that was killed left the one before it.
    (found.work_dir / 'best_accuracy_top1_epoch_5.pth').touch()
    os.utime(found.work_dir / 'best_accuracy_top1_epoch_5.pth', (1, 1))
    assert found.test_command()[3].endswith('best_accuracy_top1_epoch_7.pth')
    assert found.checkpoint.name == 'epoch_300.pth' and not found.is_trained


def test_everything_wrong_is_in_one_message():
    with pytest.raises(UserError) as caught:
        check_plan(plan('retinanet_container_light', gpus=3), is_dry=True)
    text = str(caught.value)
    for hint in ('--gpus 3', 'choose 1, 2, 4 or 8 GPUs', 'container_light_paper_in1k.pth',
                 'instances_train2017.json', ': missing', '--data-root'):
        assert hint in text
    # The commands would be those of another recipe.
    lines = list(describe(plan('retinanet_container_light', gpus=3)))
    assert not any('train.sh' in line for line in lines)


def test_what_is_trained_needs_no_weights_any_more():
    found = plan('retinanet_container_light')
    found.work_dir.mkdir(parents=True)
    torch.save(dict(state_dict={}), found.checkpoint)
    assert found.is_trained
    with pytest.raises(UserError) as caught:
        check_plan(found, is_dry=True)
    assert 'instances_val2017.json' in str(caught.value)
    assert 'container_light_paper_in1k' not in str(caught.value)
    found.checkpoint.write_bytes(found.checkpoint.read_bytes()[:50])
    assert not found.is_trained


def test_mixed_precision_without_a_gpu_is_among_it():
    with pytest.raises(UserError, match='AmpOptimWrapper') as caught:
        check_plan(plan('imagenet_container_light_10pct'), is_dry=True)
    assert 'imagenet-subset' in str(caught.value)


def test_dino_does_not_accumulate():
    assert plan('dino_container_light', gpus=2).options == {}
    with pytest.raises(UserError, match='--gpus 2: .* DINO cannot accumulate'):
        check_plan(plan('dino_container_light', gpus=2), is_dry=True)
    small = plan('dino_container_light', small=True)
    assert small.fits and any('4 images x 1 process = 4 per' in line for line in describe(small))
    assert not small.cfg.get('load_from') and small.cfg.val_evaluator.k == (1, )


def test_a_small_share_is_not_repeated():
    share = 'imagenette_deit_s_10pct'
    assert plan(share).cfg.train_dataloader.dataset.times == 10
    assert plan(share, small=True).cfg.train_dataloader.dataset.times == 1


def test_missing_data_of_small_experiments_is_said_to_be_their_own(tmp_path):
    with pytest.raises(UserError, match=r'(?s)train_10pct.*10 % of Imagenette: docs/results.md'):
        check_plan(plan('imagenette_deit_s_10pct', data_root=str(tmp_path)), is_dry=True)


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert plan('retinanet_container_light').gpus == 2
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 6)
    assert plan('retinanet_container_light').gpus == 4, 'six do not divide 16 images by 2'
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    with pytest.raises(UserError, match='this machine has 2'):
        check_plan(plan('retinanet_container_light', gpus=4), is_dry=True)


def test_a_wrong_name_is_answered_with_close_ones():
    with pytest.raises(UserError, match="Did you mean 'retinanet_container_light'"):
        plan('retinanet_container_lite')
    with pytest.raises(UserError, match='no accuracy was published'):
        plan('imagenet_coatnet_4')


def test_dry_run_writes_nothing(tmp_path, capsys):
    reproduce.reproduce(arguments('retinanet_container_light', small=True))
    out = capsys.readouterr().out
    assert 'nothing was done' in out and 'tools/train.py' in out and 'tools/test.py' in out
    with pytest.raises(UserError):
        reproduce.reproduce(arguments('retinanet_container_light'))
    assert list(tmp_path.iterdir()) == []


def test_hash_depends_on_values_and_not_on_their_order():
    path = 'mmcontainer::retinanet/container_light_fpn_1x_coco.py'
    cfg, other = load_config(path), load_config(path)
    lr = other.optim_wrapper.optimizer.pop('lr')
    assert config_hash(cfg) != config_hash(other)
    other.optim_wrapper.optimizer.lr = lr
    assert config_hash(cfg) == config_hash(other)
    assert re.fullmatch('[0-9a-f]{16}', config_hash(cfg))
    other.randomness = dict(seed=1)
    assert config_hash(cfg) != config_hash(other)
    assert config_hash(cfg, with_seed=False) == config_hash(other, with_seed=False)
    # A class stands for its name, whatever its address in memory.
    hashes = set()
    for _ in range(2):
        cfg.hook_class = type('Anything', (), {})
        hashes.add(config_hash(cfg))
    assert len(hashes) == 1


def test_checks_leave_the_hash_alone(tmp_path):
    """They repair the order of classes, for example, in a copy."""
    found = plan('retinanet_container_light', data_root=str(tmp_path))
    with pytest.raises(UserError):
        check_plan(found, is_dry=True)
    assert config_hash(found.cfg) == found.hash


def entry(run, row='a', **more):
    return dict(row=row, run=run, found={'coco/bbox_mAP': 43.6}, **more)


def test_ledger_keeps_what_is_in_it(tmp_path):
    path = tmp_path / 'results' / 'ledger.jsonl'
    assert read_ledger(path) == ([], [])
    assert append_entry(path, entry('1')) and append_entry(path, entry('2', by='Zoë'))
    assert not append_entry(path, entry('2'))
    # Killed while it was written by other means, or edited: no end of line.
    torn = path.read_bytes() + b'{"row": "b", "fou'
    path.write_bytes(torn)
    assert append_entry(path, entry('3'))
    assert path.read_bytes().startswith(torn + b'\n')
    entries, problems = read_ledger(path)
    assert [one['run'] for one in entries] == ['1', '2', '3'] and entries[1]['by'] == 'Zoë'
    assert len(problems) == 1 and 'line 3' in problems[0]
    assert [file.name for file in path.parent.iterdir() if 'unfinished' in file.name] == []


def test_an_append_that_fails_leaves_the_ledger(tmp_path, monkeypatch):
    path = tmp_path / 'ledger.jsonl'
    append_entry(path, entry('1'))
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(reproduce_ledger, 'write_atomically', fail)
    with pytest.raises(OSError):
        append_entry(path, entry('2'))
    assert path.read_bytes() == before


def test_list_shows_all_rows_and_their_state(tmp_path):
    ledger = tmp_path / 'ledger.jsonl'
    done = entry('1', 'smca_detr_r50', published={'coco/bbox_mAP': 41.0}, by='Ada',
                 date='2026-12-01T08:00:00+00:00', hardware='8 x GPU',
                 seconds=dict(train=36000., test=360.))
    append_entry(ledger, done)
    append_entry(ledger, entry('2', 'smca_detr_r50', changes={'randomness.seed': 1}))
    with open(ledger, 'a') as file:
        file.write('{')
    lines = list(reproduce.list_rows(ledger))
    for row in load_rows().values():
        line, = [line for line in lines if line.strip().split(' ')[0] == row.name]
        assert row.published_text in line and (row.config or row.reason) in line
        assert ('not trained here' in line) == bool(row.config and row.name != 'smca_detr_r50')
        assert not row.config or row.hours in line
    line, = [line for line in lines if ' smca_detr_r50 ' in line]
    assert '43.6 on 2026-12-01 by Ada, 10.1 h on 8 x GPU' in line
    assert 'line 3' in lines[-1]


def test_a_work_dir_belongs_to_one_run(tmp_path):
    found = plan('retinanet_container_light')
    run = reproduce._read_state(found)
    assert run['sessions'] == 0 and list(tmp_path.iterdir()) == []
    found.work_dir.mkdir(parents=True)
    (found.work_dir / 'epoch_1.pth').write_bytes(b'')
    with pytest.raises(UserError, match='did not begin'):
        reproduce._read_state(found)
    reproduce._write_state(found, run)
    assert reproduce._read_state(found) == run
    other = plan('mask_rcnn_container_light', work_dir=str(found.work_dir))
    for changed in (other, plan('retinanet_container_light', gpus=2)):
        with pytest.raises(UserError, match=r'holds a run of retinanet_container_light with'):
            reproduce._read_state(changed)


@pytest.mark.parametrize('code, expected', [
    (130, KeyboardInterrupt), (-2, KeyboardInterrupt), (143, reproduce.Terminated),
    (2, UserError), (-9, UserError)])
def test_ends_of_a_tool(code, expected):
    found = plan('retinanet_container_light')
    found.work_dir.mkdir(parents=True)
    run = reproduce._read_state(found)
    end = f'kill -{-code} $$' if code < 0 else f'exit {code}'
    with pytest.raises(expected):
        reproduce._execute(found, run, 'train', ['bash', '-c', end])
    assert reproduce._read_state(found)['seconds']['train'] > 0


def test_metrics_are_those_of_the_last_evaluation(tmp_path):
    for name, value in (('20260101_000000', 0.1), ('20260102_000000', 0.438)):
        (tmp_path / name).mkdir()
        metrics = {'coco/bbox_mAP': value, 'coco/bbox_mAP_l': -1.0, 'time': 3.2,
                   'accuracy/top1': 82.0, 'coco/text': 'x'}
        (tmp_path / name / f'{name}.json').write_text(json.dumps(metrics))
    assert reproduce._read_metrics(tmp_path) == {'coco/bbox_mAP': 43.8, 'accuracy/top1': 82.0}
    with pytest.raises(UserError, match='no numbers'):
        reproduce._read_metrics(tmp_path / 'none')


def test_a_curve_is_that_of_all_sessions(tmp_path):
    sessions = [[dict(step=20, loss=1.), {'accuracy/top1': 30., 'step': 1},
                 {'accuracy/top1': 41., 'step': 2}],
                [{'accuracy/top1': 42.12345, 'step': 2}, {'accuracy/top1': 50., 'step': 3}]]
    for number, lines in enumerate(sessions):
        folder = tmp_path / f'2026010{number}_000000' / 'vis_data'
        folder.mkdir(parents=True)
        # The second session was killed while it wrote.
        (folder / 'scalars.json').write_text(
            ''.join(f'{json.dumps(line)}\n' for line in lines) + '{"accur' * number)
    assert reproduce.read_curve(tmp_path, 'accuracy/top1') == [[1, 30.], [2, 42.1234], [3, 50.]]
    assert reproduce.read_curve(tmp_path, 'coco/bbox_mAP') == []


def test_environment_is_complete(monkeypatch):
    found = reproduce_ledger.describe_environment()
    assert {'torch', 'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmcontainer'} <= set(
        found['versions'])
    assert ' cores of ' in found['hardware'] and found['date'].endswith('+00:00')
    assert set(found) == {
        'versions', 'hardware', 'threads', 'date', 'by'}
    assert set(reproduce_ledger.describe_code()) == {'revision', 'dirty'}
    json.dumps(found)
    assert found['threads'] == torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert reproduce_ledger.describe_environment()['threads'] is None
