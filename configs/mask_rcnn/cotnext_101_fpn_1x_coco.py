_base_ = './cotnet_50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='cotnext-101', init_cfg=dict(checkpoint='checkpoints/cotnext_101_in1k.pth')))

# Unlike most other mask configs, the official one takes any short side from 640 to 800.
train_pipeline = _base_.any_short_side_pipeline
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
