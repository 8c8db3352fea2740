_base_ = './cotnet_50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='cotnet-101', init_cfg=dict(checkpoint='checkpoints/cotnet_101_in1k.pth')))
