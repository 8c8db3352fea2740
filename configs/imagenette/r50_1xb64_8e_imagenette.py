# MMPretrain's ResNet-50.
_base_ = '../_base_/imagenette_classifier.py'

model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=50, style='pytorch'),
    head=dict(in_channels=2048))
