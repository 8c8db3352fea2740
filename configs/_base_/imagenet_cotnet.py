# The official recipe of CoTNet on ImageNet: cot_experiments/*/config.yaml of JDAI-CV/CoTNet and the
# code behind them (tests/configs/official_cotnet_imagenet.yaml has every value). Here are the
# values of CoTNet-50; the other models state their differences.
_base_ = [
    # Bicubic crops of 224 x 224; evaluation on the central 224 x 224 of 256.
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
    './plugin.py',
    './randaugment_15.py'
]

model = dict(
    # Out of `mmcontainer::`, MMEngine would look for the classifier in this package.
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='CoTNet', arch='cotnet-50', out_indices=(3, ), drop_path_rate=0.1),
    neck=[dict(type='GlobalAveragePooling'), dict(type='DropoutNeck', p=0.25)],
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=2048,
        init_cfg=None,  # as PyTorch initialises a linear layer
        # Smooths the targets that mixup and cutmix mixed.
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    # One of the two for every batch.
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8),
                             dict(type='CutMix', alpha=1.0)]))

train_pipeline = _base_.train_pipeline
train_pipeline[0].imdecode_backend = 'pillow'
# rand-m15-mstd0.5-n2
train_pipeline[3].update(
    policies=_base_.randaugment_policies, magnitude_level=15, magnitude_std=0.5, total_level=15)
train_pipeline.pop(4)  # no random erasing
test_pipeline = _base_.test_pipeline
test_pipeline[0].imdecode_backend = 'pillow'
train_dataloader = dict(batch_size=80, drop_last=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=128, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='OptimWrapper',  # float32
    # 8 GPUs x 80 = 640 images an iteration: 0.1 * 640 / 256 = 0.25.
    optimizer=dict(type='SGD', lr=0.25, momentum=0.9, nesterov=True, weight_decay=4e-5),
    # No weight decay on biases, norms and other vectors.
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))
param_scheduler = [
    # 1e-4 at first, the full rate in epoch 5, each epoch at one rate.
    dict(type='LinearLR', start_factor=1e-4 / 0.25, by_epoch=True, begin=0, end=6),
    # To 1e-5 at the end of training. It counts from epoch 0, as timm's does, and lowers the rates
    # of the warm-up by 0.04 % at most, which timm's does not.
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0)
]
train_cfg = dict(by_epoch=True, max_epochs=350, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=640)

custom_hooks = [
    *_base_.custom_hooks,
    # Averages weights and running statistics (decay 0.9999); validation, tests and checkpoints use
    # the averages.
    dict(type='EMAHook', momentum=1e-4, update_buffers=True),
    # After each epoch, the running statistics become their mean over the GPUs.
    dict(type='SyncBuffersHook')
]
# Before each iteration, all GPUs take over the running statistics of the first, as PyTorch does
# by default.
model_wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=True)
# The best checkpoint is the published one.
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='accuracy/top1'))
