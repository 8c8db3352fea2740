# CoAtNet-0 in the recipe of this project's other backbones. Stage 3 attends among the 50 x 84
# positions of an 800 x 1333 image; model.backbone.window_size=14 restricts it to windows.
_base_ = './container_light_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='CoAtNet',
        arch='coatnet-0',
        init_cfg=dict(checkpoint='checkpoints/coatnet_0_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]))
