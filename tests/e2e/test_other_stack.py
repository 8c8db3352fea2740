"""Checkpoints of one stack of packages are tested, resumed and converted on another.

MMCONTAINER_OTHER_PYTHON is the Python of the other environment. `make test-stack` makes one; CI
gives that of the classic stack (PyTorch 2.1, NumPy 1) to the tests of the default one.
"""
import os
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from golden_rule import make_state_dict
from tool_server import Tools

pytestmark = pytest.mark.slow

# What authors' files look like: weights beside the state of a training, NumPy's numbers too.
OFFICIAL = 'container_v1_light'
SAVE = f'''
import argparse, sys
sys.path.append({str(Path(__file__).parents[1])!r})
import numpy as np
import torch
from golden_rule import make_state_dict
torch.save({{'model': make_state_dict({OFFICIAL!r}, 3, 0.6),
            'max_accuracy': np.float64(82.5), 'steps': np.int64(7), 'history': np.arange(3.),
            'args': argparse.Namespace(model={OFFICIAL!r}, lr=5e-4)}}, 'official.pth')
'''


@pytest.fixture(params=['from this stack', 'from the other'])
def stacks(request, repo_root, tmp_path, tool_server):
    """Two functions that launch tools: on the stack that writes, and on that which reads."""
    other = os.environ.get('MMCONTAINER_OTHER_PYTHON')
    if not other:
        pytest.skip('needs a second environment: MMCONTAINER_OTHER_PYTHON=.venv-classic/bin/python')
    # absolute() instead of resolve(): the link to Python is what makes it that of an environment.
    other = str((repo_root / other).absolute())
    pythons = [sys.executable, other]
    if request.param == 'from the other':
        pythons.reverse()
    return [partial(Tools(tmp_path, tool_server if python == sys.executable else None, python),
                    env=dict(PYTHONPATH=str(repo_root))) for python in pythons]


def test_a_training_is_tested_and_resumed(stacks, tiny_config, tiny_data, read_losses, tmp_path):
    """With the same metrics, and the same losses: the streams of random numbers go on as well."""
    write, read = stacks
    config = tiny_config()
    train = ('train.py', config, '--data-root', tiny_data, '--from-scratch')
    trained = write(*train, '--work-dir', 'first')
    tested = read('test.py', config, 'first/epoch_3.pth', '--data-root', tiny_data)
    metrics = [[float(text) for text in re.findall(r'coco/bbox +(\S+)', output)]
               for output in (trained, tested)]
    assert len(metrics[1]) == 1 and metrics[1] == pytest.approx(metrics[0][-1:], abs=2e-3)
    read(*train, '--work-dir', 'second', '--resume', 'first/epoch_2.pth')
    before, after = (read_losses(tmp_path / name) for name in ('first', 'second'))
    assert list(after) == list(range(13, 19))
    for iteration, losses in after.items():
        assert losses == pytest.approx(before[iteration], rel=1e-3), iteration


def test_official_weights_are_converted(stacks, tmp_path):
    write, read = stacks
    (tmp_path / 'save.py').write_text(SAVE)
    write(tmp_path / 'save.py')
    read('convert_checkpoint.py', 'official.pth', 'ours.pth')
    ours, = tmp_path.glob('ours-*.pth')
    write('convert_checkpoint.py', ours, 'back.pth', '--source', 'container', '--to-official')
    back, = tmp_path.glob('back-*.pth')
    content, expected = torch.load(back, weights_only=True), make_state_dict(OFFICIAL, 3, 0.6)
    assert list(content['state_dict']) == list(expected)
    assert all(torch.equal(content['state_dict'][key], value) for key, value in expected.items())
