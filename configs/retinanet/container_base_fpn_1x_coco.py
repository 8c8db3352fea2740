# Container itself: dynamic and static affinity in all four stages (22.1 M). Stage 1 has N = 66600
# positions of an 800 x 1333 image; attention needs memory linear in N but time quadratic in it. To
# divide that time, average keys and values: --cfg-options model.backbone.kv_stride="(8,4,2,1)"
# (docs/container_family.md has measurements). No ImageNet weights were published.
_base_ = './container_light_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='Container',
        arch='base',
        kv_stride=1,
        init_cfg=dict(checkpoint='checkpoints/container_base_in1k.pth')))
