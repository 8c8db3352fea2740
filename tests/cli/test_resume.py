"""Which checkpoint a training goes on from, and what is said about it."""
import os
import sys
import time

import pytest
import torch

from mmcontainer.cli.resume import advice_after_interrupt, find_resume
from mmcontainer.engine.checkpoint_hook import newest_checkpoint
from mmcontainer.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'run').mkdir()
    return tmp_path / 'run'


@pytest.fixture
def save(folder):
    """Return a function that puts a checkpoint of some age into the work dir."""

    def write(name, age=0, whole=True):
        path = folder / f'{name}.pth'
        torch.save(dict(weight=torch.ones(300)), path)
        if not whole:
            path.write_bytes(path.read_bytes()[:-100])
        os.utime(path, (1_700_000_000 - age, ) * 2)
        return path

    return write


def test_nothing_yet(folder):
    assert find_resume(str(folder)) == (None, '')
    assert find_resume(str(folder / 'not there')) == (None, '')
    assert newest_checkpoint(str(folder)) is None


def test_the_recorded_one(folder, save):
    """As MMEngine writes it: relative to the folder that training was started in."""
    first, _ = save('epoch_1', age=9), save('epoch_2')
    (folder / 'last_checkpoint').write_text('somewhere/else/run/epoch_1.pth')
    assert find_resume(str(folder)) == (str(first), '')


@pytest.mark.parametrize('record', [None, '', '\x00\x00'])
def test_without_a_record_the_newest(folder, save, record):
    save('epoch_2', age=9), save('epoch_10', age=2), save('best_bbox_mAP_epoch_3')
    if record is not None:
        (folder / 'last_checkpoint').write_text(record)
    found, remark = find_resume(str(folder))
    assert found.endswith('epoch_10.pth') and remark


def test_a_damaged_last_one_is_passed_over(folder, save):
    save('epoch_1', age=9), save('epoch_2', age=5), save('epoch_3', whole=False)
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_3.pth'))
    found, remark = find_resume(str(folder))
    assert found == str(folder / 'epoch_2.pth')
    assert 'epoch_3.pth, the last one, is damaged' in remark
    (folder / 'epoch_3.pth').unlink()
    assert 'is gone' in find_resume(str(folder))[1]


def test_nothing_but_damaged_ones(folder, save):
    save('iter_4', whole=False)
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_9.pth'))
    with pytest.raises(UserError, match='no whole checkpoint.*iter_9.pth, which is gone.*iter_4'):
        find_resume(str(folder))


def test_a_named_one(folder, save):
    path = save('epoch_1')
    assert find_resume('unused', str(path)) == (str(path), '')
    with pytest.raises(UserError, match='(?s)no checkpoint.*epoch_2.pth.*There is.*epoch_1.pth'):
        find_resume(str(folder), str(folder / 'epoch_2.pth'))


def test_advice_after_an_interruption(folder, save, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'my config.py', '--overwrite'])
    assert 'nothing to resume from' in advice_after_interrupt(str(folder), 0.)
    save('epoch_1')
    advice = advice_after_interrupt(str(folder), 0.)
    assert 'epoch_1.pth' in advice
    assert advice.endswith("tools/train.py 'my config.py' --resume")
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'a.py', '--resume', 'old.pth', '--amp',
                                      'bf16'])
    assert advice_after_interrupt(str(folder), 0.).endswith(
        'tools/train.py a.py --amp bf16 --resume')
    # Nothing was saved since: of --overwrite, or of an older file, what was typed starts it again.
    later = time.time() + 60
    assert advice_after_interrupt(str(folder), later).endswith(
        'tools/train.py a.py --resume old.pth --amp bf16')
    # What started the processes is not known here.
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'a.py', '--launcher', 'pytorch'])
    assert advice_after_interrupt(str(folder), 0., 'pytorch').endswith(
        'start it as before, with --resume added.')


def test_nothing_but_the_best_one(folder, save):
    """It holds no optimizer; "no checkpoint yet, so training starts" would end in a refusal."""
    save('best_bbox_mAP_epoch_3')
    with pytest.raises(UserError, match='best_bbox_mAP_epoch_3.pth.*load_from'):
        find_resume(str(folder))
