# Semantic FPN from scratch on the generated shapes: what the demo's detector finds, by pixels.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py', '../_base_/shapes_segmentation.py',
    '../_base_/container_light.py'
]

width = 64
norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=_base_.image_size),
    pretrained=None,
    backbone=dict(_delete_=True, type='ContainerLight', init_cfg=None),
    neck=dict(in_channels=_base_.channels, out_channels=width),
    decode_head=dict(
        in_channels=[width] * 4,
        channels=width,
        num_classes=len(_base_.metainfo.classes),
        norm_cfg=norm_cfg,
        # Most pixels are background: so short a training would learn little else.
        loss_decode=dict(class_weight=[0.3, 1., 1., 1., 1.])))
