_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/coco_instance.py',
    '../_base_/schedule_1x_adamw.py', '../_base_/default_runtime.py',
    '../_base_/container_light.py'
]

model = dict(
    # Without _delete_ the ResNet's arguments (depth=50, ...) would leak in.
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(in_channels=_base_.channels))
