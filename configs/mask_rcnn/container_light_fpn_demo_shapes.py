# The twin with masks of ../retinanet/container_light_fpn_demo_shapes.py: from scratch, on the same
# generated data. docs/numerics.md has measurements of what it needs for that: norms in the neck and
# the heads, and a mask head that starts at one half.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/shapes_instance.py',
    '../_base_/container_light.py'
]

custom_imports = dict(imports=['mmcontainer', 'mmcontainer.detectors'])

width = 64
norm_cfg = dict(type='GN', num_groups=16)
num_classes = len(_base_.metainfo.classes)

model = dict(
    backbone=dict(_delete_=True, type='ContainerLight', init_cfg=None),
    neck=dict(in_channels=_base_.channels, num_outs=4, out_channels=width, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        # As in the twin: square, 16 to 181 pixels.
        anchor_generator=dict(scales=[4, 5.7], ratios=[1.0], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels=width,
            conv_out_channels=width,
            fc_out_channels=256,
            num_classes=num_classes,
            norm_cfg=norm_cfg),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(
            type='SmallInitMaskHead',
            in_channels=width, conv_out_channels=width, num_classes=num_classes,
            norm_cfg=norm_cfg)),
    # A few proposals and samples do for two to five shapes in a picture.
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(max_per_img=200),
        rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(max_per_img=200)))
