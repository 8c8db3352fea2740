# The demo's task and settings with CoTNet-50. Make the data first:
# python -m mmcontainer.demo.shapes data/shapes
_base_ = './container_light_fpn_demo_shapes.py'

model = dict(
    backbone=dict(_delete_=True, type='CoTNet', arch='cotnet-50'),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
