_base_ = './cotnet_50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='cotnet-101', init_cfg=dict(checkpoint='checkpoints/cotnet_101_in1k.pth')))

# The log of the published run has any short side from 640 to 800; its committed config has not.
train_pipeline = _base_.any_short_side_pipeline
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
