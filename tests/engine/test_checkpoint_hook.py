"""Whatever moment a training is killed in, a whole checkpoint is left."""
import errno
import multiprocessing
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from tiny_training import Model, Numbers

from mmcontainer import fileio
from mmcontainer.checkpoints import check_file, load_file
from mmcontainer.cli.config_changes import use_safe_checkpoints
from mmcontainer.cli.tool import user_message
from mmcontainer.engine.checkpoint_hook import SafeCheckpointHook, newest_checkpoint


class Scores(Evaluator):
    """Scores that rise, fall and rise: of four epochs the first, second and fourth are best."""

    def __init__(self):
        super().__init__([])
        self.scores = iter([0.1, 0.3, 0.2, 0.4])

    def process(self, *args, **kwargs):
        pass

    def evaluate(self, size):
        return dict(score=next(self.scores), other=-1.)


def make_runner(folder, **kwargs):
    hook = dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=1, **kwargs)
    loader = dict(batch_size=2, dataset=Numbers(), sampler=dict(type='DefaultSampler'))
    return Runner(
        Model(), str(folder), experiment_name=f'{torch.rand(1).item()}',
        train_dataloader=loader, val_dataloader=loader, val_cfg=dict(),
        val_evaluator=Scores(), train_cfg=dict(by_epoch=True, max_epochs=4, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), default_hooks=dict(checkpoint=hook))


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def test_only_the_last_and_the_best_are_left(tmp_path):
    make_runner(tmp_path, save_best='score', rule='greater').train()
    assert names(tmp_path) == ['best_score_epoch_4.pth', 'epoch_4.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_4.pth')
    kept = load_file(tmp_path / 'epoch_4.pth')['message_hub']['runtime_info']
    assert kept['keep_ckpt_ids'] == [4] and kept['best_ckpt'].endswith('best_score_epoch_4.pth')


def test_files_of_the_run_that_was_resumed_stay(tmp_path):
    make_runner(tmp_path / 'a', save_best='other', rule='greater', save_last=False).train()
    before = names(tmp_path / 'a')
    runner = make_runner(tmp_path / 'b', save_best='score', rule='greater')
    runner._load_from, runner._resume = str(tmp_path / 'a' / 'epoch_4.pth'), True
    assert load_file(runner._load_from)['message_hub']['runtime_info']['best_ckpt']
    runner.train_loop._max_epochs = 8
    runner._train_loop._max_epochs = 8
    runner.train()
    assert names(tmp_path / 'a') == before and 'best_other_epoch_1.pth' in before


def test_by_iteration_with_several_best(tmp_path):
    make_runner(tmp_path, save_best=['score', 'other'], rule=['greater', 'less'],
                by_epoch=False).train()
    assert names(tmp_path) == ['best_other_iter_1.pth', 'best_score_iter_4.pth', 'iter_4.pth']


class Killed(BaseException):
    pass


@pytest.mark.parametrize('moment', range(14))
def test_killed_at_any_write_or_removal(tmp_path, monkeypatch, moment):
    """The process ends in the middle of the n-th write, before its move, or before a removal."""
    done = []

    def count():
        done.append(None)
        if len(done) == moment + 1:
            raise Killed

    def write(target, fill):
        whole = []
        fill_half = tmp_path / f'.{target.name}.half.pth'
        fill(str(fill_half))
        whole = fill_half.read_bytes()
        fill_half.write_bytes(whole[:len(whole) // 2])
        count()
        fill_half.unlink()
        original(target, fill)
        count()

    def remove(self, path):
        count()
        Path(path).unlink()

    original = fileio.write_atomically
    monkeypatch.setattr('mmcontainer.engine.checkpoint_hook.write_atomically', write)
    monkeypatch.setattr('mmengine.fileio.LocalBackend.remove', remove)
    runner = make_runner(tmp_path, save_best='score', rule='greater')
    try:
        runner.train()
    except Killed:
        pass
    else:
        pytest.fail('nothing was killed')
    whole = [name for name in names(tmp_path) if not name.startswith('.')]
    for name in whole:
        check_file(tmp_path / name)
    if len(done) > 1:  # the first one was moved into place
        newest = newest_checkpoint(str(tmp_path))
        assert newest is not None
        content = load_file(newest)
        assert content['meta']['epoch'] >= runner.epoch and 'optimizer' in content
    record = tmp_path / 'last_checkpoint'
    assert not record.exists() or Path(record.read_text()).is_file()


def _train_for_long(folder):
    runner = make_runner(folder, by_epoch=False)
    runner.model.register_buffer('much', torch.ones(4_000_000))  # writing is what takes the time
    runner.train_loop._max_epochs = 10_000
    runner.train_loop.val_interval = 10_000
    runner.train()


@pytest.mark.parametrize('delay', [0., 0.002, 0.005, 0.02])
def test_really_killed_while_it_writes(tmp_path, delay):
    """SIGKILL, which nothing can react to; the next training removes what was not finished."""
    process = multiprocessing.get_context('fork').Process(
        target=_train_for_long, args=(tmp_path, ), daemon=True)
    process.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob('.iter_*')) or not (tmp_path / 'last_checkpoint').exists():
        assert process.is_alive() and time.monotonic() < deadline
    time.sleep(delay)
    process.kill()
    process.join()
    whole = [name for name in names(tmp_path) if not name.startswith('.')]
    assert whole
    for name in whole:
        check_file(tmp_path / name)
    check_file(Path((tmp_path / 'last_checkpoint').read_text()))
    make_runner(tmp_path).train()
    assert not list(tmp_path.glob('.*'))


def test_the_disk_is_full(tmp_path, monkeypatch):
    """One sentence with the path; the checkpoint before stays, and no part of the next one."""
    def write_bytes(self, data):
        if 'epoch_2' in self.name:
            original(self, data[:len(data) // 2])
            raise OSError(errno.ENOSPC, 'No space left on device')
        original(self, data)

    original = Path.write_bytes
    monkeypatch.setattr(Path, 'write_bytes', write_bytes)
    with pytest.raises(OSError) as caught:
        make_runner(tmp_path).train()
    assert f'disk is full ({tmp_path / "epoch_2.pth"} could not' in user_message(caught.value)
    assert names(tmp_path) == ['epoch_1.pth'] and not list(tmp_path.glob('.*'))
    assert newest_checkpoint(str(tmp_path)) == tmp_path / 'epoch_1.pth'


def test_what_is_published_can_be_read(tmp_path):
    """MMEngine's name promises the hash of something else than the file, which is refused here."""
    make_runner(tmp_path, published_keys=['meta', 'state_dict']).train()
    path, = tmp_path.glob('epoch_4-*.pth')
    check_file(path)
    assert set(load_file(path)) == {'meta', 'state_dict'}


def test_files_of_the_user_are_left_alone(tmp_path):
    (tmp_path / '.mine.pth').write_bytes(b'')
    make_runner(tmp_path).train()
    assert (tmp_path / '.mine.pth').exists()


def test_it_takes_the_place_of_mmengines():
    for kind in ('CheckpointHook', 'mmengine.CheckpointHook', 'mmengine.hooks.CheckpointHook',
                 CheckpointHook):
        cfg = Config(dict(default_hooks=dict(checkpoint=dict(type='X')),
                          custom_hooks=[dict(type='Y')]))
        cfg.default_hooks.checkpoint.type = kind
        cfg.custom_hooks[0].type = kind
        use_safe_checkpoints(cfg)
        assert cfg.default_hooks.checkpoint.type == 'SafeCheckpointHook'
        assert cfg.custom_hooks[0].type == 'SafeCheckpointHook'
    cfg = Config(dict(default_hooks=dict(by_iter=dict(type='CheckpointHook', by_epoch=False))))
    use_safe_checkpoints(cfg)
    assert cfg.default_hooks.by_iter.type == 'SafeCheckpointHook'
    cfg = Config(dict())
    use_safe_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint == dict(type='SafeCheckpointHook', interval=1)
    for hook in (None, dict(type='MyHook')):
        cfg = Config(dict(default_hooks=dict(checkpoint=hook)))
        use_safe_checkpoints(cfg)
        assert cfg.default_hooks.checkpoint == hook
    assert issubclass(SafeCheckpointHook, CheckpointHook)
