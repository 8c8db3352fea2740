"""``tools/reproduce.py --small`` as a user runs it: killed, gone on with, and finished once."""
import json
import os
import signal
import subprocess
import sys

import pytest
from tool_server import TOOLS

pytestmark = pytest.mark.slow

ROW = 'retinanet_container_light'
CPU = dict(CUDA_VISIBLE_DEVICES='')


def launch(folder, environment):
    """Start it in a session of its own, so that all its processes can be killed at once."""
    return subprocess.Popen(
        [sys.executable, '-u', str(TOOLS / 'reproduce.py'), ROW, '--small'], cwd=folder, text=True,
        env={**environment, **CPU}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True)


def read_until(process, text):
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f'{text!r} was not printed')


def test_a_killed_run_goes_on_and_is_noted_once(tmp_path, unmeasured, run_tool, read_losses):
    work_dir = tmp_path / 'work_dirs' / 'reproduce' / f'{ROW}_small'
    with launch(tmp_path, unmeasured) as process:
        read_until(process, 'Epoch(train) [2][1/8]')
        os.killpg(process.pid, signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode == 130
    assert 'To go on, run the same command again' in output and 'Traceback' not in output
    assert output.rstrip().endswith('Interrupted.')

    with launch(tmp_path, unmeasured) as process:
        read_until(process, 'Epoch(train) [2][2/8]')
        os.killpg(process.pid, signal.SIGKILL)
    assert (work_dir / 'epoch_1.pth').is_file() and not (work_dir / 'ledger.jsonl').exists()
    output = run_tool('reproduce.py', ROW, '--small', env=CPU)
    # The output of the tools that it starts goes past the one that is captured.
    assert '$ ' in output and 'written to' in output
    first, *others = [path.read_text() for path in sorted(work_dir.glob('*/*.log'))]
    assert 'Epoch(train) [1]' in first and len(others) == 2
    assert all('epoch_1.pth' in log and 'Epoch(train) [1]' not in log for log in others)
    assert len(read_losses(work_dir)) == 16
    entry = json.loads((work_dir / 'ledger.jsonl').read_text())
    assert entry['row'] == ROW and entry['small'] and entry['sessions'] == 3
    assert entry['images'] * entry['gpus'] * entry['accumulate'] == 16
    assert entry['published']['coco/bbox_mAP'] == 43.8 and 'coco/bbox_mAP' in entry['found']
    assert entry['seconds']['train'] > 0 and entry['seconds']['test'] > 0

    output = run_tool('reproduce.py', ROW, '--small', env=CPU)
    assert 'finished' in output and '43.80' in output and '$ ' not in output
    assert (work_dir / 'ledger.jsonl').read_text().count('\n') == 1

    # Killed between the training and the test: the checkpoint is whole, the ledger has nothing.
    (work_dir / 'ledger.jsonl').unlink()
    output = run_tool('reproduce.py', ROW, '--small', env=CPU)
    commands = [line for line in output.splitlines() if line.startswith('$ ')]
    assert len(commands) == 1 and 'tools/test.py' in commands[0]
    again = json.loads((work_dir / 'ledger.jsonl').read_text())
    assert again['found'] == entry['found'] and again['config_hash'] == entry['config_hash']
    assert not (tmp_path / 'results').exists(), 'the ledger of real results'
