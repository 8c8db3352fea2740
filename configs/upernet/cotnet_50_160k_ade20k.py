# CoTNet-50 in the recipe of Container-Light, so that they compare on equal terms.
_base_ = './container_light_160k_ade20k.py'

model = dict(
    backbone=dict(
        type='CoTNet',
        arch='cotnet-50',
        init_cfg=dict(checkpoint='checkpoints/cotnet_50_in1k.pth')),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024))
