# From the classifier of imagenette/container_light_1xb64_8e_imagenette.py.
_base_ = ['../_base_/voc_detection.py', '../_base_/container_light.py']

model = dict(
    # Without _delete_ the ResNet's arguments (depth=50, ...) would leak in.
    backbone=dict(
        _delete_=True,
        **{
            **_base_.backbone, 'arch': 'light-paper',
            'init_cfg': dict(type='StrictPretrained',
                             checkpoint='checkpoints/container_light_imagenette.pth')
        }),
    neck=dict(in_channels=_base_.channels))
