# The ResNet-50 row of the paper's Table 5: the 50-epoch baseline that PVT was released with
# (detection/configs/detr_r50_8x2_50ep_coco_baseline.py of github.com/whai362/PVT), whose table has
# the same AP of 32.3. It ran in MMDetection 2.13, so that images are decoded and resized by OpenCV,
# those without objects are left out, and batches are grouped by aspect ratio.
_base_ = ['mmdet::detr/detr_r50_8xb2-150e_coco.py', '../_base_/plugin.py']

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    # PyTorch's default for the projection, as in the official code and in MMDetection 2.
    neck=dict(init_cfg=dict(type='ResetParameters', layer='Conv2d')))

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='RandomChoiceResize',
        scales=[(1333, side) for side in range(640, 801, 32)],
        keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

max_epochs = 50
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(
        type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[33], gamma=0.1)
]
