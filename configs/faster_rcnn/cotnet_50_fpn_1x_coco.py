_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py', '../_base_/cotnet_90k_detection.py',
    '../_base_/cotnet.py'
]

model = dict(
    # Without _delete_ the ResNet's arguments (depth=50, ...) would leak in.
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(in_channels=_base_.channels, norm_cfg=_base_.norm_cfg),
    roi_head=dict(bbox_head=_base_.box_head),
    train_cfg=dict(rpn=_base_.rpn_train_cfg))
