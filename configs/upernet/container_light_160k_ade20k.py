# UPerNet in the recipe of Swin Transformer (arXiv 2103.14030, appendix A2.3), with the numbers of
# MMSegmentation's config of Swin-T (configs/swin): 160000 iterations of 8 GPUs x 2 crops of
# 512 x 512, AdamW, a rate of 6e-5 that falls linearly to zero after a warm-up of 1500 iterations,
# weight decay 0.01 but for norms, drop path 0.3. The Container paper has no segmentation.
_base_ = [
    'mmseg::_base_/models/upernet_r50.py', 'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/schedules/schedule_160k.py', '../_base_/segmentation_runtime.py',
    '../_base_/container_light.py'
]

# Swin Transformer trains its norms with all else; MMSegmentation synchronises those of a ResNet.
backbone = _base_.backbone
backbone.update(
    norm_cfg=dict(type='SyncBN', requires_grad=True), norm_eval=False, drop_path_rate=0.3)
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    pretrained=None,
    backbone=dict(_delete_=True, **backbone),
    decode_head=dict(in_channels=_base_.channels, num_classes=150),
    auxiliary_head=dict(in_channels=_base_.channels[2], num_classes=150))

# Swin pads what fills no whole patch, and Container drops it: without this the features of a test
# image would be stretched by up to 31 pixels.
test_pipeline = _base_.test_pipeline
test_pipeline.insert(2, dict(type='ResizeToMultiple', size_divisor=32))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_dataloader = dict(batch_size=2)
# A variable of the schedule, which nothing reads any more.
optimizer = None
# Batch norms, unlike Swin's layer norms, are not known by their names: those of the heads, which
# Swin's config does not except from weight decay, are excepted too.
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', eta_min=0., power=1., begin=1500, end=160000, by_epoch=False)
]
# The learning rate belongs to 8 GPUs x 2 crops.
auto_scale_lr = dict(enable=False, base_batch_size=16)
