"""Two processes on the CPU, started as the README says."""
import os
import re
import socket

import pytest
import torch

from mmcontainer.checkpoints import load_file

MODULE = '''
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SaveEachRank(Hook):
    """Record for the comparison: weights, and the images that each process was given."""
    priority = 'LOWEST'

    def before_run(self, runner):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen += [sample.img_path for sample in data_batch['data_samples']]

    def after_train(self, runner):
        torch.save(dict(weights=runner.model.module.state_dict(), seen=self.seen),
                   f'{runner.work_dir}/rank{get_rank()}.pth')
'''
EXTRA = """
custom_imports = dict(imports=['mmcontainer', 'save_each_rank'], allow_failed_imports=False)
custom_hooks = [dict(type='RNGStateHook'), dict(type='SaveEachRank')]
train_cfg = dict(max_epochs=2)
"""


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(run_tool, tiny_config, tiny_data, tmp_path):
    (tmp_path / 'save_each_rank.py').write_text(MODULE)
    config = tiny_config('retinanet', EXTRA, 'two_processes.py')
    environment = dict(PYTHONPATH=str(tmp_path), CUDA_VISIBLE_DEVICES='')
    output = run_tool('dist_train.sh', config, 2, '--data-root', tiny_data, '--from-scratch',
                      '--work-dir', 'work', env=environment)
    # Live norms: without averaging, their statistics would differ.
    assert re.search(r'norm_eval: True -> False', output)
    assert 'strides' not in output and output.count('2 processes') == 1
    ranks = [load_file(tmp_path / 'work' / f'rank{rank}.pth') for rank in (0, 1)]
    saved = load_file(tmp_path / 'work' / 'epoch_2.pth')
    first, second = (rank['weights'] for rank in ranks)
    assert any('running_var' in key for key in first)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
        assert torch.equal(value, saved['state_dict'][key]), key
    assert len(saved['rng_state']['ranks']) == 2
    # Each epoch, either saw half of the 12 images.
    for epoch in range(2):
        seen = [set(rank['seen'][6 * epoch:6 * epoch + 6]) for rank in ranks]
        assert len(seen[0]) == len(seen[1]) == 6 and not seen[0] & seen[1]


@pytest.mark.slow
def test_evaluation_by_two_processes_equals_one(run_tool, trained, tiny_data):
    config, checkpoint, _, _ = trained('retinanet')
    found = [re.findall(r'coco/bbox.*', output) for output in (
        run_tool('test.py', config, checkpoint, '--data-root', tiny_data, '--work-dir', 'one'),
        run_tool('dist_test.sh', config, checkpoint, 2, '--data-root', tiny_data, '--work-dir',
                 'two', env=dict(CUDA_VISIBLE_DEVICES='')))]
    assert len(found[0]) == 1 and found[0] == found[1]


@pytest.mark.parametrize('script, arguments', [
    ('dist_train.sh', ['config.py']), ('dist_train.sh', ['config.py', 'two']),
    ('dist_test.sh', ['config.py', 'epoch_1.pth']), ('slurm_train.sh', ['partition'])])
def test_usage(script, arguments, run_tool):
    assert 'usage:' in run_tool(script, *arguments, code=2)


def test_several_nodes(run_tool):
    """With `echo` for Python, the command line that would start the processes is printed."""
    nodes = dict(PYTHON='echo', NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1', PORT='1234')
    output = run_tool('dist_train.sh', 'a b.py', 8, '--amp', 'bf16', env=nodes).split()
    assert {'--nnodes=2', '--node-rank=1', '--master-addr=10.0.0.1', '--master-port=1234',
            '--nproc-per-node=8'} <= set(output)
    assert output[-6:] == ['a', 'b.py', '--amp', 'bf16', '--launcher', 'pytorch']
    output = run_tool('dist_test.sh', 'c.py', 'd.pth', 4, '--out', 'x.pkl', env=nodes).split()
    assert '--nproc-per-node=4' in output
    assert output[-6:] == ['c.py', 'd.pth', '--out', 'x.pkl', '--launcher', 'pytorch']


def test_ports(run_tool):
    """A free one where none is named; one that is taken is refused before Python starts."""
    assert '--standalone' in run_tool('dist_train.sh', 'c.py', 2, env=dict(PYTHON='echo'))
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        output = run_tool('dist_train.sh', 'c.py', 2, env=dict(PYTHON='echo', PORT=port), code=2)
        assert output.startswith(f'error: port {port} is in use') and output.count('\n') == 1
    output = run_tool('dist_train.sh', 'c.py', 2, env=dict(PYTHON='echo', PORT=port))
    assert f'--master-port={port}' in output


def test_a_mistake_is_one_message(run_tool):
    """The tool's own, with its exit code, and no report of torchrun behind it."""
    output = run_tool('dist_train.sh', 'no_such_config.py', 2, code=2,
                      env=dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1'))
    assert output.count('error: ') == 1 and 'no_such_config.py' in output
    assert 'Traceback' not in output and 'ChildFailedError' not in output


def test_slurm(run_tool, tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    environment = dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', PYTHON='py', GPUS='4',
                       SRUN_ARGS='--time 10 --exclude n1')
    output = run_tool('slurm_train.sh', 'part', 'job', 'c.py', 'work', '--amp', 'fp16',
                      env=environment)
    assert output.startswith('-p part --job-name=job --gres=gpu:4 --ntasks=4 --ntasks-per-node=4')
    assert '--time 10 --exclude n1 py -u' in output
    assert output.strip().endswith(
        'train.py c.py --work-dir work --launcher slurm --amp fp16')
