_base_ = './cotnet_50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='cotnext-50', init_cfg=dict(checkpoint='checkpoints/cotnext_50_in1k.pth')))
