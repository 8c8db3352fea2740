"""A data set and a detector small enough to train in seconds."""
import json
from pathlib import Path

import mmcv
import numpy as np
import pytest
from tool_server import Tools

CLASSES = ('square', 'bar')
# As a user would write it: based on the installed package's config, everything else made small.
CONFIG = """
_base_ = 'mmcontainer::{base}'

model = dict(
    backbone=dict(
        type='Container',
        arch=dict(_delete_=True, embed_dims=(8, 16, 16, 16), depths=(1, 1, 2, 1),
                  mlp_ratios=(2, 2, 2, 2), patch_sizes=(4, 2, 2, 2),
                  num_heads=(None, None, None, 2), static=dict(kind='depthwise', kernel_size=5)),
        drop_path_rate=0.3,
        init_cfg=None),
    neck=dict(in_channels=[8, 16, 16, 16], out_channels=16),
    {heads})
dataset = dict(metainfo=dict(classes={classes}))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask={masks}),
    dict(type='RandomChoiceResize', scales=[(96, 96), (128, 128)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask={masks}),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                                          'scale_factor'))
]
train_dataloader = dict(batch_size=2, num_workers=2, persistent_workers=True,
                        dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(num_workers=0, persistent_workers=False,
                      dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=3)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10)]
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)  # the losses of each iteration, not their mean over 50
"""
HEADS = {
    'retinanet': """bbox_head=dict(
        num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1),
    test_cfg=dict(score_thr=0.)""",
    'mask_rcnn': """rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=2),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=2)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=100), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rcnn=dict(score_thr=0.))""",
    'smca_detr': """num_queries=10, test_cfg=dict(max_per_img=10),
    positional_encoding=dict(num_feats=8),
    encoder=dict(num_layers=1, layer_cfg=dict(
        self_attn_cfg=dict(embed_dims=16),
        ffn_cfg=dict(embed_dims=16, feedforward_channels=16))),
    decoder=dict(num_layers=2, layer_cfg=dict(
        self_attn_cfg=dict(embed_dims=16), cross_attn_cfg=dict(embed_dims=16),
        ffn_cfg=dict(embed_dims=16, feedforward_channels=16))),
    bbox_head=dict(num_classes=2, embed_dims=16)""",
}
BASES = {'smca_detr': 'detr/smca_detr_container_light_50e_coco.py'}
ONE_MAP = "model['backbone']['out_indices'], model['neck']['in_channels'] = (3, ), [16]\n"


def write_split(root, split, number, generator):
    """Write ``number`` noisy images with one or two bright rectangles each, and their COCO JSON."""
    images, annotations = [], []
    for index in range(number):
        height, width = (int(side) for side in generator.integers(70, 130, size=2))
        picture = generator.integers(0, 120, size=(height, width, 3), dtype=np.uint8)
        for _ in range(int(generator.integers(1, 3))):
            label = int(generator.integers(2))
            w, h = (24, 24) if label == 0 else (40, 14)
            x, y = int(generator.integers(0, width - w)), int(generator.integers(0, height - h))
            picture[y:y + h, x:x + w] = (250, 200, 90) if label else (60, 90, 250)
            annotations.append(dict(
                id=len(annotations) + 1, image_id=index, category_id=label + 1, bbox=[x, y, w, h],
                area=w * h, iscrowd=0,
                segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]]))
        name = f'{index:03d}.jpg'
        mmcv.imwrite(picture, str(root / f'{split}2017' / name))
        images.append(dict(id=index, file_name=name, height=height, width=width))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    folder = root / 'annotations'
    folder.mkdir(exist_ok=True)
    (folder / f'instances_{split}2017.json').write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=categories)))


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory):
    """A COCO data set of 12 + 4 images in the layout of COCO 2017."""
    root = tmp_path_factory.mktemp('tiny_coco')
    generator = np.random.default_rng(0)
    write_split(root, 'train', 12, generator)
    write_split(root, 'val', 4, generator)
    return root


@pytest.fixture(scope='session')
def tiny_config(tmp_path_factory):
    """Return a function that writes a config file: ``tiny_config('retinanet', extra='...')``."""
    folder = tmp_path_factory.mktemp('configs')

    def write(detector='retinanet', extra='', name=None):
        text = CONFIG.format(
            base=BASES.get(detector, f'{detector}/container_light_fpn_1x_coco.py'),
            heads=HEADS[detector], classes=CLASSES, masks=detector == 'mask_rcnn')
        path = folder / (name or f'tiny_{detector}_{len(list(folder.iterdir()))}.py')
        path.write_text(text + (ONE_MAP if detector in BASES else '') + extra)
        return path

    return write


@pytest.fixture(scope='session')
def read_losses():
    """Return a function: losses that the runs in a work dir logged, {iteration: {name: loss}}."""

    def read(work_dir):
        losses = {}
        for log in sorted(Path(work_dir).glob('*/vis_data/*.json')):
            for line in log.read_text().splitlines():
                record = json.loads(line)
                if 'loss' in record:  # of the latest run that has this iteration
                    losses[record['iter']] = {key: value for key, value in record.items()
                                              if key.startswith('loss')}
        return losses

    return read


@pytest.fixture(scope='session')
def trained(tiny_data, tiny_config, tmp_path_factory, tool_server):
    """Return a function that trains a detector once: (config, checkpoint, work_dir, output).

    With ``launched``, by a process that imports the libraries itself.
    """
    done = {}

    def train(detector='retinanet', launched=False):
        key = detector, launched
        if key not in done:
            work_dir, config = tmp_path_factory.mktemp(detector), tiny_config(detector)
            run = Tools(work_dir, None if launched else tool_server)
            output = run('train.py', config, '--data-root', tiny_data, '--work-dir', work_dir,
                         '--from-scratch', '--cfg-options', 'randomness.seed=0')
            done[key] = (config, work_dir / 'epoch_3.pth', work_dir, output)
        return done[key]

    return train
