"""The official recipe of CoTNet (SyncBN, iterations, exact statistics) as users run it on a CPU."""
import json
import re
import socket

import pytest
import torch

from mmcontainer.checkpoints import load_file

pytestmark = pytest.mark.slow

# All of the recipe but its sizes.
CONFIG = """
_base_ = 'mmcontainer::mask_rcnn/cotnet_50_fpn_1x_coco.py'

model = dict(
    backbone=dict(arch=dict(
        _delete_=True,
        depths=(1, 1, 2, 1), embed_dims=(16, 16, 16, 32), widths=(8, 8, 16, 16), stem='conv7',
        layers=('cot', 'cot', 'cot', 'cot'), blur=False)),
    neck=dict(in_channels=[16, 16, 16, 32], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, conv_out_channels=16, fc_out_channels=16, num_classes=2),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_classes=2)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=100), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rcnn=dict(score_thr=0., max_per_img=10)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(type='RandomChoiceResize', scales=[(96, 96), (128, 128)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                                          'scale_factor'))
]
metainfo = dict(classes=('square', 'bar'))
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline, metainfo=metainfo))
val_dataloader = dict(num_workers=0, persistent_workers=False,
                      dataset=dict(pipeline=test_pipeline, metainfo=metainfo))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=6, val_interval=3)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3))
custom_hooks = [dict(type='RNGStateHook'), dict(type='PreciseBNHook', num_iters=2)]
"""
TRAIN = ('--from-scratch', '--work-dir', 'work', '--cfg-options', 'randomness.seed=0')
CPU = dict(CUDA_VISIBLE_DEVICES='')


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'tiny_cotnet.py'
    path.write_text(CONFIG)
    return path


def test_one_process(run_tool, config, tiny_data, tmp_path):
    output = run_tool('train.py', config, '--verbose', '--data-root', tiny_data, *TRAIN, env=CPU)
    assert 'Warning: SyncBN becomes BN' in output and 'the 2 images of one process' in output
    assert 'model.backbone.frozen_stages: 1 -> -1' in output
    # Before the validation and checkpoint after 3 and after 6 iterations.
    assert len(re.findall(r'Exact statistics of \d+ batch norms out of 2 batches', output)) == 2
    checkpoint = tmp_path / 'work' / 'iter_6.pth'
    means = [load_file(tmp_path / 'work' / f'iter_{i}.pth')['state_dict'][
        'roi_head.mask_head.convs.0.bn.running_mean'] for i in (3, 6)]
    assert not torch.equal(*means)
    # What was saved is what was evaluated, in another process.
    pattern = r'coco/(\w+): (-?[\d.]+)'
    evaluated = dict(re.findall(pattern, output)[-12:])
    output = run_tool('test.py', config, checkpoint, '--verbose', '--data-root', tiny_data,
                      '--work-dir', 'test', env=CPU)
    assert dict(re.findall(pattern, output)) == evaluated and len(evaluated) == 12
    run_tool('infer.py', tiny_data / 'val2017' / '000.jpg', '--config', config, '--checkpoint',
             checkpoint, '--out-dir', 'found', '--score-thr', 0, '--no-pictures', env=CPU)
    assert json.loads((tmp_path / 'found' / '000.json').read_text())['detections']


def test_resumed_run_goes_on(run_tool, config, tiny_data, tmp_path):
    run_tool('train.py', config, '--data-root', tiny_data, *TRAIN, 'train_cfg.max_iters=3', env=CPU)
    output = run_tool('train.py', config, '--data-root', tiny_data, '--resume', *TRAIN, env=CPU)
    assert (tmp_path / 'work' / 'iter_6.pth').is_file()
    assert len(re.findall('Exact statistics', output)) == 1


def test_two_processes_have_the_same_statistics(run_tool, config, tiny_data, tmp_path):
    """Without a GPU there is no SyncBN, but the exact statistics are those of all processes."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        port = str(listener.getsockname()[1])
    (tmp_path / 'save_buffers.py').write_text('''
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SaveBuffers(Hook):
    priority = 'BELOW_NORMAL'  # behind PreciseBNHook, and before anything averages buffers

    def after_train_iter(self, runner, **kwargs):
        torch.save(dict(runner.model.named_buffers()), f'rank{get_rank()}_{runner.iter + 1}.pth')
''')
    config.write_text(CONFIG + """
custom_imports = dict(
    imports=['mmcontainer', 'mmcontainer.detectors', 'save_buffers'], allow_failed_imports=False)
custom_hooks = [*custom_hooks, dict(type='SaveBuffers')]
train_cfg['max_iters'] = 3
""")
    output = run_tool('dist_train.sh', config, 2, '--data-root', tiny_data, *TRAIN,
                      env=dict(CPU, PORT=port, PYTHONPATH=str(tmp_path)))
    assert output.count('Warning: SyncBN becomes BN') == 1
    for iteration, equal in ((2, False), (3, True)):
        first, second = (torch.load(tmp_path / f'rank{rank}_{iteration}.pth') for rank in (0, 1))
        statistics = [key for key in first if 'running' in key]
        assert statistics
        assert equal == all(torch.equal(first[key], second[key]) for key in statistics)
