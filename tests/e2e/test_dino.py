"""DINO as a user runs it: the config for Imagenette with a small network on few small images."""
import re

import mmcv
import numpy as np
import pytest
from tool_server import Tools

pytestmark = pytest.mark.slow

CLASSES, IMAGES, EPOCHS = ('blue', 'green', 'red'), 8, 3
CONFIG = f"""
_base_ = 'mmcontainer::dino/container_light_1xb64_5e_imagenette.py'

model = dict(
    backbone=dict(
        type='Container',
        arch=dict(_delete_=True, embed_dims=(8, 16, 16, 16), depths=(1, 1, 2, 1),
                  mlp_ratios=(2, 2, 2, 2), patch_sizes=(4, 2, 2, 2),
                  num_heads=(None, None, None, 2), static=dict(kind='depthwise', kernel_size=5))),
    head=dict(in_channels=16, out_channels=32, hidden_channels=16, bottleneck_channels=8))
train_dataloader = dict(batch_size=6)
val_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
val_evaluator = dict(k=(3, ))
test_evaluator = val_evaluator
train_cfg = dict(max_epochs={EPOCHS})
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=3))
log_processor = dict(window_size=1)
"""


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Noisy images in one folder per class, of which each is of one colour."""
    root, generator = tmp_path_factory.mktemp('colours'), np.random.default_rng(0)
    for split in ('train', 'val'):
        for channel, name in enumerate(CLASSES):
            for index in range(IMAGES):
                picture = generator.integers(0, 80, (80, 96, 3), np.uint8)
                picture[..., channel] += 150
                mmcv.imwrite(picture, str(root / split / name / f'{index}.png'))
    return root


@pytest.fixture(scope='module')
def run(images, tmp_path_factory, tool_server):
    """Train once: (config, work dir, output)."""
    work_dir = tmp_path_factory.mktemp('dino')
    config = work_dir / 'colours.py'
    config.write_text(CONFIG)
    output = Tools(work_dir, tool_server)('train.py', config, '--data-root', images, '--work-dir',
                                          work_dir)
    return config, work_dir, output


def accuracies(output):
    return [float(value) for value in re.findall(r'knn +([\d.]+)', output)]


def test_trains_and_validates_the_untrained_network_first(run, read_losses):
    losses = read_losses(run[1])
    assert len(losses) == EPOCHS * len(CLASSES) * IMAGES // 6
    # The entropy of 32 equally likely outputs; of the first step, since then it can be anything.
    assert losses[1]['loss'] == pytest.approx(np.log(32), rel=0.5)
    found = accuracies(run[2])
    assert len(found) == 1 + EPOCHS and found[0] >= 90, 'colours are told apart by any network'


def test_evaluation_equals_the_last_of_training(run, images, run_tool):
    config, work_dir, training = run
    output = run_tool('test.py', config, work_dir / f'epoch_{EPOCHS}.pth', '--data-root', images)
    assert accuracies(output) == accuracies(training)[-1:]


def test_resuming(run, images, run_tool, tmp_path, read_losses):
    config, work_dir, _ = run
    run_tool('train.py', config, '--data-root', images, '--work-dir', 'again', '--resume',
             work_dir / 'epoch_1.pth')
    whole, again = read_losses(work_dir), read_losses(tmp_path / 'again')
    assert len(again) == len(whole) * (EPOCHS - 1) // EPOCHS
    assert again == {iteration: whole[iteration] for iteration in again}


def test_missing_data(run, run_tool):
    output = run_tool('train.py', run[0], '--work-dir', 'new', '--data-root', 'nowhere', code=2)
    assert 'nowhere/train' in output and 'nowhere/val' in output and '--data-root' in output
