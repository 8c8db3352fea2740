# DINO's default recipe (arXiv 2104.14294 and its released code), which appendix A.5 of the
# Container paper (arXiv 2106.01401) names: 100 epochs, 64 images per GPU, learning rate 0.0005 per
# 256 images, weight decay 0.04 to 0.4. docs/dino.md has what the paper leaves open, and what is
# chosen here.
_base_ = ['mmpretrain::_base_/default_runtime.py', './plugin.py']

custom_imports = dict(imports=['mmcontainer', 'mmcontainer.selfsup'], allow_failed_imports=False)

# Out of `mmcontainer::`, MMEngine would look in this package for what has no `_scope_`.
data_preprocessor = dict(
    _scope_='mmpretrain',
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)

model = dict(
    _scope_='mmpretrain',
    type='DINO',
    head=dict(type='DINOHead', out_channels=65536),
    # Constant: a warm-up of the temperature belongs to DINO's longer runs.
    loss=dict(student_temp=0.1, teacher_temp=0.04, warmup_epochs=0, center_momentum=0.9),
    teacher_momentum=0.996)

colours = [
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomApply',
        prob=0.8,
        transforms=[
            dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
        ]),
    # The weights of Pillow's grey, for BGR.
    dict(
        type='RandomGrayscale',
        prob=0.2,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.299))
]
# Pillow's Gaussian blur, its radius uniform from 0.1 to 2.
blur = dict(type='GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf')
bicubic = dict(backend='pillow', interpolation='bicubic')
global_crop = dict(
    type='RandomResizedCrop', scale=224, crop_ratio_range=(0.4, 1.0), **bicubic)
local_crop = dict(
    type='RandomResizedCrop', scale=96, crop_ratio_range=(0.05, 0.4), **bicubic)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    # The order counts: the teacher sees the first two crops.
    dict(
        type='MultiView',
        num_views=[1, 1, 8],
        transforms=[[global_crop, *colours, dict(blur, prob=1.0)],
                    [
                        global_crop, *colours,
                        dict(blur, prob=0.1),
                        dict(type='Solarize', thr=128, prob=0.2)
                    ], [local_crop, *colours, dict(blur, prob=0.5)]]),
    dict(type='PackInputs')
]
resize = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', **bicubic),
    dict(type='CenterCrop', crop_size=224)
]
test_pipeline = [*resize, dict(type='PackInputs')]
# The k-NN classifier looks for neighbours among the training images.
reference_pipeline = [
    *resize,
    dict(type='MarkReference'),
    dict(type='PackInputs', algorithm_keys=('is_reference', ))
]

_data = dict(_scope_='mmpretrain', type='ImageNet', data_root='data/imagenet')
training_images = dict(**_data, split='train')
images = dict(**_data, split='val')
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(**training_images, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(**training_images, pipeline=reference_pipeline),
            dict(**images, pipeline=test_pipeline)
        ]))
test_dataloader = val_dataloader
# Table 6 is for 10 neighbours; DINO's tool prints the others as well.
val_evaluator = dict(_scope_='mmpretrain', type='KNNAccuracy', k=(10, 20, 100, 200))
test_evaluator = val_evaluator

optim_wrapper = dict(
    # float16 where it is safe, with a dynamic scale of the loss. Without a GPU: --amp bf16.
    type='AmpOptimWrapper',
    # 8 GPUs x 64 = 512 images an iteration: 5e-4 * 512 / 256 = 1e-3.
    optimizer=dict(type='AdamW', lr=5e-4 * 512 / 256, weight_decay=0.04),
    # No weight decay on biases, norms and other vectors; class token and table of positions, which
    # have three dimensions, decay.
    paramwise_cfg=dict(flat_decay_mult=0., bias_decay_mult=0.),
    # Of every tensor by itself: DINOHook.
    clip_grad=dict(max_norm=3.0))
param_scheduler = [
    # From 0, which MMEngine's schedulers cannot leave again, up in 10 epochs; by iteration.
    dict(type='LinearLR', start_factor=1e-9, by_epoch=True, end=10, convert_to_iter_based=True),
    # To 1e-6 at the end of training (without `end`, that is train_cfg.max_epochs).
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        begin=10,
        convert_to_iter_based=True),
    # From 0.04 to 0.4.
    dict(
        type='CosineAnnealingWeightDecay', eta_min=0.4, by_epoch=True, convert_to_iter_based=True)
]
custom_hooks = [dict(type='DINOHook', freeze_last_layer=1), *_base_.custom_hooks]
# Table 6 states the accuracy after every 20 epochs.
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=20)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=512)

randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
