"""The tools as a user runs them, on a detector small enough to train in seconds."""
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys

import cv2
import pytest
import torch
from pycocotools import mask as coco_mask

from mmcontainer.checkpoints import load_file
from mmcontainer.compat import current_stack

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('detector, metric', [('retinanet', 'bbox'), ('mask_rcnn', 'segm')])
def test_training(trained, read_losses, detector, metric):
    config, checkpoint, work_dir, output = trained(detector, launched=detector == 'retinanet')
    assert 'model.backbone.norm_eval: True -> False' in output
    assert len(re.findall(rf'coco/{metric} +-?\d', output)) == 3
    # Fifteen lines come before the first iteration; the log file has the rest.
    assert output[:output.index('Epoch(train)')].count('\n') <= 17
    assert 'coco/' in output and 'warning' not in output.lower()
    log = next(work_dir.glob('*/*.log')).read_text()
    assert all(text in log for text in ('System environment', 'dict(', 'Hooks will be executed',
                                        'Average Precision', '"FileClient" will be deprecated'))
    losses = [values['loss'] for _, values in sorted(read_losses(work_dir).items())]
    assert len(losses) == 18 and sum(losses[-6:]) < 0.95 * sum(losses[:6])
    content = load_file(checkpoint)
    assert len(content['rng_state']['ranks']) == 1
    assert content['meta']['dataset_meta']['classes'] == ('square', 'bar')


def test_evaluation_equals_the_last_of_training(trained, launch_tool, tiny_data, tmp_path):
    config, checkpoint, _, training = trained('mask_rcnn')
    output = launch_tool('test.py', config, checkpoint, '--data-root', tiny_data, '--out',
                         'p/out.pkl', '--show-dir', 'drawn', '--work-dir', 'work')
    assert len([line for line in output.splitlines() if 'Epoch(test)' not in line]) <= 15
    rows = re.findall(r'coco/.*', output)
    assert len(rows) == 2 and rows == re.findall(r'coco/.*', training)[-2:]
    predictions = pickle.loads((tmp_path / 'p' / 'out.pkl').read_bytes())
    assert len(predictions) == 4
    assert {'bboxes', 'labels', 'scores', 'masks'} <= set(predictions[0]['pred_instances'])
    pictures = sorted(path.name for path in (tmp_path / 'drawn').iterdir())
    assert pictures == ['000.jpg', '001.jpg', '002.jpg', '003.jpg']


def test_inference(trained, launch_tool, tiny_data, tmp_path):
    config, checkpoint, _, _ = trained('mask_rcnn')
    images = tmp_path / 'images'
    shutil.copytree(tiny_data / 'val2017', images)
    (images / '0_broken.jpg').write_text('no picture')
    output = launch_tool('infer.py', images, 'gone.jpg', tiny_data / 'val2017' / '000.jpg',
                         '--config', config, '--checkpoint', checkpoint, '--out-dir', 'found',
                         '--score-thr', 0, '--cfg-options',
                         'model.test_cfg.rcnn.max_per_img=10', code=1)
    assert '0_broken.jpg: cannot be read as an image' in output
    assert 'gone.jpg: there is no such file' in output
    # One line says which model, then there is one for each image, and nothing else.
    model, *lines = output.splitlines()
    assert model.startswith('MaskRCNN of ') and '2 classes, named by the checkpoint; on ' in model
    assert sum(' objects -> found/' in line for line in lines) == 5
    assert sum(line.startswith('error: ') for line in lines) == len(lines) - 5 == 3
    stems = ['000', '000_2', '001', '002', '003']
    files = sorted(path.name for path in (tmp_path / 'found').iterdir())
    assert files == sorted(f'{stem}.{kind}' for stem in stems for kind in ('jpg', 'json'))
    result = json.loads((tmp_path / 'found' / '001.json').read_text())
    height, width = cv2.imread(str(images / '001.jpg')).shape[:2]
    assert (result['height'], result['width']) == (height, width)
    # Enlarged, so that letters do not hide objects.
    assert max(cv2.imread(str(tmp_path / 'found' / '001.jpg')).shape) == 960
    scores = [detection['score'] for detection in result['detections']]
    assert scores and scores == sorted(scores, reverse=True)
    for detection in result['detections']:
        assert detection['class'] == ('square', 'bar')[detection['label']]
        x1, y1, x2, y2 = detection['bbox']
        assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height
        assert coco_mask.decode(detection['mask']).shape == (height, width)


def test_checkpoint_of_another_model(trained, run_tool, tiny_data):
    config = trained('mask_rcnn')[0]
    checkpoint = trained('retinanet')[1]
    for command in (('test.py', config, checkpoint, '--data-root', tiny_data),
                    ('infer.py', tiny_data / 'val2017', '--config', config, '--checkpoint',
                     checkpoint)):
        output = run_tool(*command, code=2)
        assert 'does not belong to this config' in output and 'Traceback' not in output


def test_mixed_precision_on_the_cpu(run_tool, tiny_config, tiny_data, tmp_path, read_losses):
    output = run_tool('train.py', tiny_config(), '--data-root', tiny_data, '--from-scratch',
                      '--amp', 'bf16', '--work-dir', 'work', '--verbose', '--cfg-options',
                      'train_cfg.max_epochs=2', env=dict(CUDA_VISIBLE_DEVICES=''))
    assert 'System environment' in output and 'loading annotations' in output  # --verbose
    losses = [values['loss'] for _, values in sorted(read_losses(tmp_path / 'work').items())]
    assert len(losses) == 12 and all(0 < loss < 100 for loss in losses)
    state = load_file(tmp_path / 'work' / 'epoch_2.pth')['state_dict']
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


def test_ctrl_c(repo_root, tiny_config, tiny_data, tmp_path, unmeasured):
    """To the training and its workers, as a terminal sends it."""
    command = [sys.executable, str(repo_root / 'tools' / 'train.py'), str(tiny_config()),
               '--data-root', str(tiny_data), '--from-scratch', '--work-dir', str(tmp_path),
               '--cfg-options', 'train_cfg.max_epochs=100']
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          cwd=tmp_path, env=unmeasured, start_new_session=True) as process:
        for line in process.stdout:
            if re.search(r'Epoch\(train\) +\[2\]', line):  # after the checkpoint of the first
                os.killpg(process.pid, signal.SIGINT)
                break
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r'checkpoint is \S+/epoch_\d+.pth. To go on: .*train.py .* --resume\n', output)
    assert errors.strip().endswith('Interrupted.') and 'Traceback' not in errors


def test_tools_of_mmdetection(trained, run_tool, tiny_data, tmp_path):
    """They take our configs, also those based on mmcontainer:: (README shows how)."""
    config, checkpoint, work_dir, _ = trained('retinanet')
    log = next(work_dir.glob('*/vis_data/2*.json'))
    output = run_tool('mmdet_tool.py', 'print_config', config)
    assert "type='RNGStateHook'" in output
    style = 'ggplot' if current_stack() == 'onedl' else 'dark'  # of matplotlib, or of seaborn
    run_tool('mmdet_tool.py', 'analyze_logs', 'plot_curve', log, '--keys', 'loss_cls', '--out',
             'loss.png', '--style', style)
    assert (tmp_path / 'loss.png').stat().st_size > 1000
    run_tool('mmdet_tool.py', 'browse_dataset', config, '--output-dir', 'seen', '--not-show',
             '--cfg-options', f'train_dataloader.dataset.data_root={tiny_data}/')
    assert len(list((tmp_path / 'seen').iterdir())) == 12
    run_tool('test.py', config, checkpoint, '--data-root', tiny_data, '--out', 'out.pkl',
             '--work-dir', 'work')
    run_tool('mmdet_tool.py', 'confusion_matrix', config, 'out.pkl', 'matrix', '--cfg-options',
             f'test_dataloader.dataset.data_root={tiny_data}/')
    height, width = cv2.imread(str(tmp_path / 'matrix' / 'confusion_matrix.png')).shape[:2]
    assert height > 800 and width > 900  # room for the labels of three rows
