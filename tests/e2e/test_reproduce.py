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
        read_until(process, 'Epoch(train) [2][2/8]')
        os.killpg(process.pid, signal.SIGKILL)
    assert (work_dir / 'epoch_1.pth').is_file()

    # Interrupted between the training and the test.
    with launch(tmp_path, unmeasured) as process:
        read_until(process, 'tools/test.py work_dirs')  # in the commands, before the work
        read_until(process, 'tools/test.py work_dirs')
        os.killpg(process.pid, signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode == 130
    assert 'To go on, run the same command again' in output and 'Traceback' not in output
    assert output.rstrip().endswith('Interrupted.')
    assert not (work_dir / 'ledger.jsonl').exists()
    first, second = [path.read_text() for path in sorted(work_dir.glob('*/*.log'))]
    assert 'Epoch(train) [1]' in first
    assert 'epoch_1.pth' in second and 'Epoch(train) [1]' not in second
    assert len(read_losses(work_dir)) == 16

    output = run_tool('reproduce.py', ROW, '--small', env=CPU)
    # The output of the tools that it starts goes past the one that is captured.
    commands = [line for line in output.splitlines() if line.startswith('$ ')]
    assert len(commands) == 1 and 'tools/test.py' in commands[0] and 'written to' in output
    entry = json.loads((work_dir / 'ledger.jsonl').read_text())
    assert entry['row'] == ROW and entry['small'] and entry['sessions'] == 2
    assert entry['images'] * entry['gpus'] * entry['accumulate'] == 16
    assert entry['published']['coco/bbox_mAP'] == 43.8 and 'coco/bbox_mAP' in entry['found']
    assert len(entry['code']) == 1 and entry['weights'] == {}
    assert entry['cpu_seconds']['train'] > 1
    assert entry['seconds']['train'] > 0 and entry['seconds']['test'] > 0

    output = run_tool('reproduce.py', ROW, '--small', env=CPU)
    assert 'finished' in output and '43.80' in output and '$ ' not in output
    assert (work_dir / 'ledger.jsonl').read_text().count('\n') == 1
    assert not (tmp_path / 'results').exists(), 'the ledger of real results'
