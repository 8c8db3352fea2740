_base_ = ['../_base_/bccd_detection.py', '../_base_/container_light_imagenette.py']

model = dict(
    # Without _delete_ the ResNet's arguments (depth=50, ...) would leak in.
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(in_channels=_base_.channels))
