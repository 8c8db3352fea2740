"""The qualification of a machine: all of it on the CPU, and what it reports when parts fail."""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import qualify, qualify_parts
from benchmarks.qualify_report import render
from mmcontainer.errors import UserError

# Run in this process, which has imported already what they need; the others as a user runs them.
IN_PROCESS = ('backbones', 'detectors', 'compiled', 'training_step')


@pytest.mark.slow
def test_parts_run_on_the_cpu(repo_root, tmp_path):
    """As a user runs it, with nothing to install; the tests marked 'gpu' are among the parts."""
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith(('COVERAGE_', 'PYTEST_'))}
    parts = [name for name in qualify.PARTS if name not in IN_PROCESS]
    done = subprocess.run(
        [repo_root / 'tools/gpu_check.sh', '--device', 'cpu', '--tiny', '--parts', *parts, '-',
         'results'],
        cwd=tmp_path, env={**environment, 'PYTHON': sys.executable}, capture_output=True, text=True)
    page = (tmp_path / 'results/report.md').read_text()
    assert done.returncode == 0, page
    report = json.loads((tmp_path / 'results/report.json').read_text())
    assert [part['name'] for part in report['parts']] == parts
    assert {part['status'] for part in report['parts']} == {'passed'}
    assert ' 0 failed' in page
    assert page.count('Nothing was measured') == page.count('has come to its end') == 0
    for name in ('demo', 'classifier'):
        trainings = json.loads((tmp_path / f'results/{name}.json').read_text())['trainings']
        assert [one['dtype'] for one in trainings] == ['float32', 'bfloat16']
        assert all(one['images_per_second'] > 0 < one['loader_images_per_second']
                   for one in trainings)


@pytest.mark.slow
@pytest.mark.parametrize('name', IN_PROCESS)
def test_a_part_measures_on_the_cpu(name, args):
    args.device, args.rounds, args.gemm_size = torch.device('cpu'), 1, qualify_parts.TINY_GEMM
    qualify_parts.PARTS[name](args)
    part = dict(name=name, what='x', status='passed', seconds=1., limit=2, log=f'{name}.log')
    page = render(args.out, dict(tiny=True, device='cpu', hardware='x', parts=[part]))
    assert 'Nothing was measured' not in page
    if name == 'backbones':
        assert 'Container-Light: 1 x 32 x 32, inference, tf32' in page


@pytest.fixture
def args(tmp_path):
    return argparse.Namespace(out=tmp_path, device='cpu', tiny=True, images=None)


def _use_part(monkeypatch, code):
    monkeypatch.setattr(qualify, 'part_command', lambda name, args: [sys.executable, '-c', code])


def test_a_part_that_hangs_is_ended_with_all_it_started(args, monkeypatch):
    _use_part(monkeypatch, 'import subprocess, sys; '
              'child = subprocess.Popen(["sleep", "600"]); print(child.pid, flush=True); '
              'child.wait()')
    monkeypatch.setattr(qualify, 'TINY_LIMIT', 2)
    result = qualify.run_part('operators', args)
    assert result['status'] == 'timed out' and 2 <= result['seconds'] < 15
    child = Path('/proc', (args.out / 'operators.log').read_text().strip(), 'stat')
    for _ in range(50):
        # What nobody has waited for stays in the table of processes as a zombie.
        if not child.exists() or child.read_text().rpartition(')')[2].split()[0] == 'Z':
            break
        time.sleep(0.1)
    else:
        pytest.fail('the child still runs')


def test_a_part_that_fails_is_reported_with_what_it_said(args, monkeypatch):
    _use_part(monkeypatch, 'raise SystemExit("the kernel is wrong")')
    results = [qualify.run_part('demo', args)]
    qualify.write_report(args.out, dict(tiny=False, device='cpu', hardware='x'), results)
    page = (args.out / 'report.md').read_text()
    assert '**failed**' in page and 'the kernel is wrong' in page
    assert json.loads((args.out / 'report.json').read_text())['parts'][0]['status'] == 'failed'


def test_without_images_the_classifier_is_left_out(args):
    args.tiny = False
    result = qualify.run_part('classifier', args)
    assert result['status'] == 'skipped' and '--images' in result['reason']
    assert 'Left out: no --images' in render(args.out, dict(tiny=False, parts=[result]))


def test_failed_and_skipped_tests_are_named(args):
    (args.out / 'tests.xml').write_text(
        '<testsuites><testsuite><testcase classname="a" name="good"/>'
        '<testcase classname="a" name="bad"><failure message="x"/></testcase>'
        '<testcase classname="a" name="other"><skipped message="no GPU"/></testcase>'
        '</testsuite></testsuites>')
    part = dict(name='tests', what='pytest', status='passed', seconds=1., limit=2)
    page = render(args.out, dict(tiny=False, parts=[part]))
    assert '1 passed, 1 failed, 1 skipped.' in page
    assert '- a.bad' in page and '- 1: no GPU' in page


def test_a_missing_gpu_is_a_message(args, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    args.device = 'cuda'
    with pytest.raises(UserError, match='finds no GPU here'):
        qualify.describe(args)
