"""One training per work dir, and places that cannot be written."""
import os
import subprocess
import sys

import pytest

from mmcontainer.cli.paths import (
    check_unclaimed,
    check_writable_file,
    check_writable_folder,
    claim_work_dir,
)
from mmcontainer.errors import UserError

# With a child that lives on, as workers of a data loader do for a while.
CLAIM = ('import os, sys, time; from mmcontainer.cli.paths import claim_work_dir; '
         'claim_work_dir(sys.argv[1], True); print("mine", flush=True); '
         'os.fork() or (os.close(1), time.sleep(5), os._exit(0)); sys.stdin.read()')


@pytest.mark.slow
def test_two_trainings(tmp_path):
    """The lock goes with the process, however that ends."""
    other = subprocess.Popen([sys.executable, '-c', CLAIM, str(tmp_path)], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == 'mine\n'
    with pytest.raises(UserError, match=f'Another training .process {other.pid}.'):
        claim_work_dir(str(tmp_path), goes_on=True)
    with pytest.raises(UserError, match=f'Another training .process {other.pid}.'):
        check_unclaimed(tmp_path)
    other.kill()
    other.communicate()
    check_unclaimed(tmp_path)  # and does not claim it
    claim_work_dir(str(tmp_path), goes_on=True)


def test_checkpoints_of_another_training(tmp_path, monkeypatch):
    (tmp_path / 'epoch_1.pth').write_bytes(b'')
    (tmp_path / '.mine.pth').write_bytes(b'')
    with pytest.raises(UserError, match='epoch_1.pth.*--resume.*--work-dir.*--overwrite'):
        claim_work_dir(str(tmp_path), goes_on=False)
    for launcher, variable in (('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID')):
        monkeypatch.setenv(variable, '1')
        claim_work_dir(str(tmp_path), goes_on=True, launcher=launcher)
    assert not (tmp_path / '.lock').exists()
    claim_work_dir(str(tmp_path), goes_on=True)  # a variable that is left over launches nothing
    assert sorted(os.listdir(tmp_path)) == ['.lock', '.mine.pth', 'epoch_1.pth']


def test_checkpoints_in_another_place(tmp_path):
    """CheckpointHook's out_dir: only last_checkpoint is in the work dir."""
    (tmp_path / 'run').mkdir()
    (tmp_path / 'epoch_7.pth').write_bytes(b'')
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'epoch_7.pth'))
    with pytest.raises(UserError, match='epoch_7.pth.*--overwrite'):
        claim_work_dir(str(tmp_path / 'run'), goes_on=False)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    for place in ('file', 'file/below', 'nul\x00'):
        with pytest.raises(UserError, match='(?s)--work-dir .*cannot be written'):
            check_writable_folder(tmp_path / place, '--work-dir')
    with pytest.raises(UserError, match='--work-dir ~no-such-user/x: '):
        check_writable_folder('~no-such-user/x', '--work-dir')
    with pytest.raises(UserError, match='--out ~no-such-user'):
        check_writable_file('~no-such-user/x.pkl', '--out')
    with pytest.raises(UserError, match='--out .*this is a folder'):
        check_writable_file(tmp_path, '--out')
    with pytest.raises(UserError, match='--out .*cannot be written'):
        check_writable_file(tmp_path / 'file' / 'a.pkl', '--out')
    assert check_writable_file(tmp_path / 'new' / 'a.pkl', '--out').parent.is_dir()
