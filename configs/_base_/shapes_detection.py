# The generated data set of `python -m mmcontainer.demo.shapes data/shapes`, boxes only, and a
# schedule that learns it from random weights in about ten minutes on two CPU cores.
_base_ = [
    'mmdet::_base_/datasets/coco_detection.py', './schedule_1x_adamw.py', './default_runtime.py'
]

data_root = 'data/shapes/'
image_size = 96
batch_size = 4  # many steps learn faster here than large ones
max_epochs = 2
metainfo = dict(
    classes=('circle', 'square', 'triangle', 'ring'),
    palette=[(220, 20, 60), (0, 120, 220), (0, 160, 70), (250, 170, 30)])

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]

# Small images are read in a moment: worker processes would only take cores from the training.
_loader = dict(batch_size=batch_size, num_workers=0, persistent_workers=False)
_data = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    **_loader,
    dataset=dict(
        **_data,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline))
val_dataloader = dict(
    **_loader,
    dataset=dict(
        **_data,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

# Fifteen times the rate of the 1x schedule, falling smoothly to zero within 1000 iterations.
optim_wrapper = dict(
    optimizer=dict(lr=1.5e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min=1e-6,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=batch_size)

default_hooks = dict(logger=dict(interval=10))
log_processor = dict(window_size=10)
randomness = dict(seed=0)
