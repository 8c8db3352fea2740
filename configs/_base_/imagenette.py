# Imagenette (9469 photographs of 10 classes to train on, 3925 to classify) at 64 x 64 pixels, from
# random weights: 8 epochs of 148 iterations, one recipe for every network. So short a training
# needs neither mixed images nor drop path, which is why the networks have none here.
_base_ = ['mmpretrain::_base_/default_runtime.py', './plugin.py']

data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True, num_classes=10)
_bicubic = dict(backend='pillow', interpolation='bicubic')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=64, crop_ratio_range=(0.35, 1.), **_bicubic),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=64, edge='short', **_bicubic),
    dict(type='CenterCrop', crop_size=64),
    dict(type='PackInputs')
]
# One folder of images per class, in folders `train` and `val`.
_data = dict(
    type='CustomDataset',
    data_root='data/imagenette',
    # in the order of the folders: n01440764, n02102040, ...
    metainfo=dict(classes=(
        'tench', 'English springer', 'cassette player', 'chain saw', 'church', 'French horn',
        'garbage truck', 'gas pump', 'golf ball', 'parachute')))
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(**_data, data_prefix='train', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**_data, data_prefix='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

# DeiT's rule for what does not decay, see imagenet_deit.py.
# On a CPU in bfloat16, which one with AMX computed 1.3 to 2.4 times as fast as float32. For one
# without bfloat16: `--cfg-options optim_wrapper.type=OptimWrapper`.
optim_wrapper = dict(
    type='CPUAmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        flat_decay_mult=0.,
        custom_keys={
            '.cls_token': dict(decay_mult=0.),
            '.pos_table.': dict(decay_mult=0.),
            'backbone.pos_embed': dict(decay_mult=0.)
        }))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=1,
         convert_to_iter_based=True),
    # to the end of training, train_cfg.max_epochs
    dict(type='CosineAnnealingLR', eta_min=5e-6, by_epoch=True, begin=1,
         convert_to_iter_based=True)
]
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=64)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
