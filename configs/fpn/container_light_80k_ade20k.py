# Semantic FPN in the recipe of the Pyramid Vision Transformer (arXiv 2102.12122, section 5.3;
# segmentation/configs/sem_fpn/PVT in whai362/PVT, with half the iterations and twice the batch and
# learning rate): 80000 iterations of 4 GPUs x 4 crops of 512 x 512, AdamW, a learning rate of 1e-4
# that falls as a polynomial of power 0.9, weight decay 1e-4, sides of test images multiples of 32.
# The Container paper has no segmentation.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py', 'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/schedules/schedule_80k.py', '../_base_/segmentation_runtime.py',
    '../_base_/container_light.py'
]

# PVT trains its norms with all else, and MMSegmentation synchronises those of a ResNet.
backbone = _base_.backbone
backbone.update(norm_cfg=dict(type='SyncBN', requires_grad=True), norm_eval=False)
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    pretrained=None,
    backbone=dict(_delete_=True, **backbone),
    neck=dict(in_channels=_base_.channels),
    decode_head=dict(num_classes=150))

test_pipeline = _base_.test_pipeline
test_pipeline.insert(2, dict(type='ResizeToMultiple', size_divisor=32))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# A variable of the schedule, which nothing reads any more.
optimizer = None
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4))
param_scheduler = [
    dict(type='PolyLR', eta_min=0., power=0.9, begin=0, end=80000, by_epoch=False)
]
# The learning rate belongs to 4 GPUs x 4 crops.
auto_scale_lr = dict(enable=False, base_batch_size=16)
