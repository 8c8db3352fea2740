_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py', '../_base_/cotnet_90k_instance.py',
    '../_base_/cotnet_cascade.py'
]

custom_imports = dict(imports=['mmcontainer', 'mmcontainer.detectors'])

model = dict(
    # Without _delete_ the ResNet's arguments (depth=50, ...) would leak in.
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(in_channels=_base_.channels, norm_cfg=_base_.norm_cfg),
    rpn_head=dict(loss_bbox=dict(_delete_=True, type='L1Loss', loss_weight=1.0)),
    roi_head=dict(**_base_.cascade_roi_head, mask_head=_base_.mask_head),
    train_cfg=dict(rpn=_base_.rpn_train_cfg, rcnn=_base_.cascade_train_cfg))
