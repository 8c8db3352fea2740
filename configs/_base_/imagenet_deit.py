# Appendix A.1 of the Container paper (arXiv 2106.01401): everything as DeiT (arXiv 2012.12877) does
# it, 300 epochs, 8 GPUs x 128 images. Only the average of the weights (EMA) is left out.
_base_ = [
    # RandAugment rand-m9-mstd0.5-inc1, random erasing 0.25, bicubic crops of 224 x 224; evaluation
    # on the central 224 x 224 of 256.
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
    './plugin.py'
]

train_dataloader = dict(
    batch_size=128,
    drop_last=True,
    # Repeated augmentation is on in DeiT's released code: an epoch sees a third of the images,
    # three times each, and has as many iterations as without.
    sampler=dict(type='RepeatAugSampler', num_repeats=3))
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader

optim_wrapper = dict(
    # float16 where it is safe, with a dynamic scale of the loss. Without a GPU: --amp bf16.
    type='AmpOptimWrapper',
    # 8 GPUs x 128 = 1024 images an iteration: 5e-4 * 1024 / 512 = 1e-3.
    optimizer=dict(lr=5e-4 * 1024 / 512, weight_decay=0.05),
    # DeiT's rule: no weight decay on biases, norms, other vectors and scalars (`flat`: here the
    # mixing weight of a block), class token and position tables. Every other weight decays, also
    # the 3 x 3 convolution that embeds positions and the learned affinity matrices.
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        flat_decay_mult=0.,
        custom_keys={
            '.cls_token': dict(decay_mult=0.),
            '.pos_table.': dict(decay_mult=0.),
            'backbone.pos_embed': dict(decay_mult=0.)  # VisionTransformer's table
        }))

param_scheduler = [
    # The first epoch at 1e-6, and five from 1e-6 to 1e-3, each at one rate: timm's warm-up takes 5
    # epochs, and DeiT's code steps it behind the epoch, so that the second repeats the first. (The
    # factor ends in its last epoch, 1, which is the first of the warm-up.)
    dict(type='ConstantLR', factor=1e-3, by_epoch=True, begin=0, end=2),
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=1, end=7),
    # to 1e-5 at the end of training (without `end`, that is train_cfg.max_epochs)
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=6)
]
train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(enable=False, base_batch_size=1024)

# A checkpoint is 250 MB, and there are 300 of them.
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
