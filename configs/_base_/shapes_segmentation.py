# The segmentation maps of `python -m mmcontainer.demo.shapes data/shapes --maps`, and a schedule
# that learns them from random weights.
_base_ = ['mmseg::_base_/schedules/schedule_20k.py', './segmentation_runtime.py']

data_root = 'data/shapes/'
image_size = (96, 96)
batch_size = 8
max_iters = 1500
metainfo = dict(
    classes=('background', 'circle', 'square', 'triangle', 'ring'),
    palette=[[128, 128, 128], [220, 20, 60], [0, 120, 220], [0, 160, 70], [250, 170, 30]])

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]

# Small images are read in a moment: worker processes would only take cores from the training.
_loader = dict(batch_size=batch_size, num_workers=0, persistent_workers=False)
# Out of `mmcontainer::`, MMEngine would look for data set and metric in this package.
_data = dict(_scope_='mmseg', type='BaseSegDataset', data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    **_loader,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        **_data,
        data_prefix=dict(img_path='train', seg_map_path='maps/train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    **_loader,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **_data,
        data_prefix=dict(img_path='val', seg_map_path='maps/val'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_scope_='mmseg', type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# A variable of the schedule, which nothing reads any more.
optimizer = None
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1.5e-3, weight_decay=0.05),
    clip_grad=dict(_delete_=True, max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=0., power=0.9, begin=50, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=500)
auto_scale_lr = dict(enable=False, base_batch_size=batch_size)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=500))
randomness = dict(seed=0)
