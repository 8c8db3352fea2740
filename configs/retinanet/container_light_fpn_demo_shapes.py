# The demo: Container-Light in RetinaNet, from scratch, on the generated data set of
# `python -m mmcontainer.datasets.shapes data/shapes`, within ten minutes on two CPU cores.
# The backbone is the full one; everything else is cut to the size of the task.
_base_ = './container_light_fpn_1x_coco.py'

data_root = 'data/shapes/'
image_size = 128
batch_size = 8
max_epochs = 4
metainfo = dict(
    classes=('circle', 'square', 'triangle', 'star', 'cross', 'ring'),
    palette=[(220, 20, 60), (0, 120, 220), (0, 160, 70), (250, 170, 30), (160, 60, 200),
             (0, 190, 190)])

model = dict(
    backbone=dict(
        # From scratch: batch norm must learn its statistics, and there is nothing to overfit in
        # some hundred iterations.
        init_cfg=None, norm_cfg=dict(requires_grad=True), norm_eval=False, drop_path_rate=0.),
    # Strides 8, 16, 32 and a narrow head: shapes are 6 to 77 pixels long, and at this image size
    # the head of the 1x config would cost as much as the backbone.
    neck=dict(out_channels=96, num_outs=3),
    bbox_head=dict(
        num_classes=len(metainfo['classes']),
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        # Anchors of 2 x stride (16 pixels and up), half the usual ones.
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32]),
        # Optimises IoU itself, which a short training needs for the stricter thresholds of AP.
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=2.0)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    # Turned over, a shape is as likely as before.
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25],
         direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]

# Small images are read in a moment: worker processes would only take cores from the training.
_loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=batch_size,
    **_loader,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=batch_size,
    **_loader,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

# A tenth of the 1x schedule's images, so a ten times higher rate that falls smoothly to zero.
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-6, by_epoch=True, begin=0,
         end=max_epochs, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
auto_scale_lr = dict(base_batch_size=batch_size)

default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=1, max_keep_ckpts=1))
log_processor = dict(window_size=10)
randomness = dict(seed=0)
