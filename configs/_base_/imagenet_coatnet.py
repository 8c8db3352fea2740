# CoAtNet's own recipe on ImageNet: the column "ImageNet-1K, pre-training" of Table 10 in appendix
# A.2 of arXiv 2106.04803. docs/coatnet.md has what the paper leaves open, and what is chosen here.
_base_ = [
    # Bicubic crops of 224 x 224; evaluation on the central 224 x 224 of 256.
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
    './plugin.py',
    './coatnet_classifier.py',
    './randaugment_15.py'
]

model = dict(train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)]))

train_pipeline = _base_.train_pipeline
# RandAugment 2, 15. TensorFlow's applies every operation that it draws, and fills with grey.
train_pipeline[3].update(
    policies=[dict(policy, prob=1.) for policy in _base_.randaugment_policies],
    magnitude_level=15,
    magnitude_std=0.,
    total_level=15,
    hparams=dict(pad_val=[128, 128, 128], interpolation='nearest'))
train_pipeline.pop(4)  # no random erasing
train_dataloader = dict(batch_size=128, drop_last=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='OptimWrapper',
    # for 32 GPUs x 128 = 4096 images an iteration
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    # No weight decay on biases, norms and other vectors.
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.),
    clip_grad=dict(max_norm=1.0))
param_scheduler = [
    # 10 000 iterations, in equal steps from 0.
    dict(type='LinearLR', start_factor=1e-4, by_epoch=False, begin=0, end=10000),
    # To 1e-5 at the end of training (without `end`, the last iteration).
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=10000)
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=4096)

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
