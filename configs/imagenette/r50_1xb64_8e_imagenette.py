# MMPretrain's ResNet-50.
_base_ = './container_light_1xb64_8e_imagenette.py'

model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=50, style='pytorch'),
    head=dict(in_channels=2048))
