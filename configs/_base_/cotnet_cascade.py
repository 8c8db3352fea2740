# The cascade of the official CoTNet configs: as MMDetection's, with a convolutional box head, L1
# losses, and targets of the last stage divided by exactly 30 and 15 (MMDetection rounds).
_base_ = './cotnet.py'

cascade_box_heads = [
    dict(
        **_base_.box_head,
        in_channels=256,
        fc_out_channels=1024,
        roi_feat_size=7,
        num_classes=80,
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder',
            target_means=[0., 0., 0., 0.],
            target_stds=[0.1 / stage, 0.1 / stage, 0.2 / stage, 0.2 / stage]),
        reg_class_agnostic=True,
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)) for stage in (1, 2, 3)
]
