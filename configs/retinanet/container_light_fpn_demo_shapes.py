# The demo: Container-Light in RetinaNet, from scratch, on the generated data set of
# `python -m mmcontainer.datasets.shapes data/shapes`, within ten minutes on two CPU cores.
# The backbone is the full one; what follows it is cut to the size of the task.
_base_ = './container_light_fpn_1x_coco.py'

data_root = 'data/shapes/'
image_size = 96
batch_size = 4  # many steps learn faster here than large ones
max_epochs = 2
channels = 64
metainfo = dict(
    classes=('circle', 'square', 'triangle', 'ring'),
    palette=[(220, 20, 60), (0, 120, 220), (0, 160, 70), (250, 170, 30)])
# From scratch, a neck and a head without norms would take several times as long to learn. Group
# norm, because batch norm would mix the statistics of the levels that share the head.
norm_cfg = dict(type='GN', num_groups=16)

model = dict(
    backbone=dict(
        # Nothing is pretrained, so batch norm has its statistics to learn; and 1000 iterations are
        # too few to overfit, so no drop path.
        init_cfg=None, norm_cfg=dict(requires_grad=True), norm_eval=False, drop_path_rate=0.),
    # Strides 4 to 32, not 8 to 128: the shapes are 10 to 50 pixels long.
    neck=dict(start_level=0, num_outs=4, out_channels=channels, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=len(metainfo['classes']),
        in_channels=channels,
        feat_channels=channels,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        # 2 square anchors per position instead of 9: each of them sees more of the few examples.
        anchor_generator=dict(scales_per_octave=2, ratios=[1.0], strides=[4, 8, 16, 32]),
        # Optimises IoU itself, which helps at the strict thresholds of AP.
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=1.0)))

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
train_dataloader = dict(
    **_loader,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline))
val_dataloader = dict(
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

# Fifteen times the rate of the 1x schedule, falling smoothly to zero within 1000 iterations.
optim_wrapper = dict(
    # One kernel for all parameters: the loop over them takes 8% of an iteration on a CPU.
    optimizer=dict(lr=1.5e-3, fused=True), clip_grad=dict(max_norm=5.0))
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
