_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/cotnet_90k_instance.py',
    '../_base_/cotnet.py'
]

custom_imports = dict(imports=['mmcontainer', 'mmcontainer.detectors'])

model = dict(
    # Without _delete_ the ResNet's arguments (depth=50, ...) would leak in.
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(in_channels=_base_.channels, norm_cfg=_base_.norm_cfg),
    roi_head=dict(bbox_head=_base_.box_head, mask_head=_base_.mask_head),
    train_cfg=dict(
        rpn=_base_.rpn_train_cfg,
        # As in detectron2, regions are positive from an IoU of 0.5 only.
        rcnn=dict(assigner=dict(match_low_quality=False))))
