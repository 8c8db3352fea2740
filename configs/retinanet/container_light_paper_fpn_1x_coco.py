# The exact size of the paper's Table 4 (29.7 M, 218 G): all MLP ratios are 4. No ImageNet weights
# of this size were published.
_base_ = './container_light_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='light-paper', init_cfg=dict(checkpoint='checkpoints/container_light_paper_in1k.pth')))
