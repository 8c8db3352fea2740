# CoTNet-50 in the recipe of this project's other backbones (AdamW, all batch norms frozen), so that
# they compare on equal terms. The official recipe is cotnet_50_fpn_1x_coco.py.
_base_ = './container_light_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='CoTNet',
        arch='cotnet-50',
        init_cfg=dict(checkpoint='checkpoints/cotnet_50_in1k.pth')),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
