_base_ = './cotnet_50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='cotnext-101', init_cfg=dict(checkpoint='checkpoints/cotnext_101_in1k.pth')))

# Unlike the other mask configs, the official one takes any short side from 640 to 800.
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None, imdecode_backend='pillow'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(
        type='RandomResize',
        scale=[(1333, 640), (1333, 800)],
        keep_ratio=True,
        backend='pillow'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
