"""A training that was killed goes on as if it had not been."""
import subprocess
import sys

import pytest
import torch
from tool_server import Tools

from mmcontainer.checkpoints import load_file

pytestmark = pytest.mark.slow

EPOCHS, ITERATIONS = 3, 6


@pytest.fixture(scope='module')
def runs(repo_root, tiny_config, tiny_data, tmp_path_factory, read_losses, tool_server):
    """Losses of an unbroken run, and of one killed in epoch 2 and resumed: {iteration: losses}."""
    # Only the unbroken and the killed run have a seed: the resumed one has to find its own.
    seeded = tiny_config('retinanet', 'randomness = dict(seed=3)\n', 'seeded.py')
    unseeded = tiny_config('retinanet', '', 'unseeded.py')

    def command(work_dir, config):
        return map(str, ('train.py', config, '--data-root', tiny_data, '--from-scratch',
                         '--work-dir', work_dir))

    whole, broken = tmp_path_factory.mktemp('whole'), tmp_path_factory.mktemp('broken')
    Tools(whole, tool_server)(*command(whole, seeded))
    with subprocess.Popen([sys.executable, *command(broken, seeded)], cwd=repo_root / 'tools',
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if 'Epoch(train) [2][3/6]' in line:
                process.kill()
                break
    before = read_losses(broken)
    assert ITERATIONS < max(before) < 2 * ITERATIONS, 'not killed in the middle of epoch 2'
    output = Tools(broken, tool_server)(*command(broken, unseeded), '--resume')
    assert 'epoch_1.pth' in output and 'state of the random' not in output
    return read_losses(whole), read_losses(broken)


def test_losses_are_the_same(runs):
    """Augmentation in two persistent workers and drop path on, validation in between."""
    whole, broken = runs
    assert sorted(whole) == list(range(1, EPOCHS * ITERATIONS + 1))
    assert broken == whole


def test_losses_would_show_another_stream(runs):
    """The comparison means something: no two iterations of a run have the same loss."""
    losses = [values['loss'] for values in runs[0].values()]
    assert len(set(losses)) == len(losses)


def test_resuming_without_the_state_is_said(runs, tiny_config, tiny_data, run_tool, trained):
    """And it gives other losses, so the hook is what makes the difference above."""
    checkpoint = trained('retinanet')[2] / 'epoch_1.pth'
    content = load_file(checkpoint)
    del content['rng_state']
    stripped = checkpoint.with_name('stripped.pth')
    torch.save(content, stripped)
    output = run_tool('train.py', tiny_config(), '--data-root', tiny_data, '--from-scratch',
                      '--work-dir', 'work', '--resume', stripped, '--cfg-options',
                      'train_cfg.max_epochs=2')
    assert 'holds no state of the random number generators' in output


def test_checkpoint_in_mid_epoch_is_warned_of(tiny_config, tiny_data, run_tool, tmp_path):
    config = tiny_config('retinanet', 'default_hooks.update(checkpoint=dict(\n    type='
                         "'CheckpointHook', by_epoch=False, interval=4))\n", 'by_iteration.py')
    common = (config, '--data-root', tiny_data, '--from-scratch', '--work-dir', 'work')
    run_tool('train.py', *common, '--cfg-options', 'train_cfg.max_epochs=1')
    output = run_tool('train.py', *common, '--resume', 'work/iter_4.pth')
    assert '4 iterations into epoch 1' in output
    output = run_tool('train.py', *common, '--resume', 'work/gone.pth', code=2)
    assert 'no checkpoint work/gone.pth' in output and 'iter_4.pth' in output


def test_smca_detr_goes_on_with_the_same_losses(
        tiny_config, tiny_data, run_tool, read_losses, tmp_path):
    """With dropout in the decoder, and images of different sizes."""
    config = tiny_config('smca_detr', 'randomness = dict(seed=3)\ntrain_cfg["max_epochs"] = 2\n')
    common = ('train.py', config, '--data-root', tiny_data, '--from-scratch', '--work-dir')
    run_tool(*common, 'whole')
    run_tool(*common, 'again', '--resume', 'whole/epoch_1.pth')
    whole, again = read_losses(tmp_path / 'whole'), read_losses(tmp_path / 'again')
    assert sorted(again) == [i for i in sorted(whole) if i > ITERATIONS]
    assert all(again[i] == whole[i] for i in again)
    assert len({values['loss'] for values in whole.values()}) == len(whole)
