_base_ = './cotnet_50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='se-cotnetd-50', init_cfg=dict(checkpoint='checkpoints/se_cotnetd_50_in1k.pth')))
