# Fine-tuning on small data sets, on a CPU: the 1x recipe of the Container paper with few images of
# 320 x 320 pixels at most per iteration, and a shorter warm-up.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/datasets/coco_detection.py',
    './schedule_1x_adamw.py', './default_runtime.py'
]

# ResNet-50, of which batch norms alone are frozen, as in the other networks; from the classifier of
# imagenette/r50_1xb64_8e_imagenette.py. Anchors start at 16 pixels, not at 32: things are small in
# small images, and the platelets of BCCD have 19.
model = dict(
    backbone=dict(
        frozen_stages=-1,
        norm_cfg=dict(requires_grad=False),
        init_cfg=dict(
            _delete_=True,
            type='StrictPretrained',
            checkpoint='checkpoints/r50_imagenette.pth')),
    bbox_head=dict(anchor_generator=dict(octave_base_scale=2)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 320), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 320), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
_loader = dict(num_workers=1, persistent_workers=True)
_images = dict(img='images/')
# An epoch ends with a whole batch. The loss is divided by the boxes of a batch, so that one image
# alone, most of whose cells nobody had labelled, had a gradient 60 times the usual one.
train_dataloader = dict(
    batch_size=4, batch_sampler=dict(drop_last=True), **_loader,
    dataset=dict(ann_file='annotations/train.json', data_prefix=_images, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=4, **_loader,
    dataset=dict(ann_file='annotations/val.json', data_prefix=_images, pipeline=test_pipeline))
test_dataloader = val_dataloader

# In bfloat16, like the classifiers of imagenette.py: on a CPU with AMX about twice as fast as
# float32. For a CPU without bfloat16: `--cfg-options optim_wrapper.type=OptimWrapper`.
optim_wrapper = dict(type='CPUAmpOptimWrapper')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1)
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
