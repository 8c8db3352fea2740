# The cascade of the official CoTNet configs, which is that of detectron2 0.3: every stage has loss
# weight 1, only the first samples regions, losses are L1, and targets of the last stage are
# multiplied by exactly 30 and 15 (MMDetection rounds).
_base_ = './cotnet.py'

cascade_roi_head = dict(
    type='Detectron2CascadeRoIHead',
    stage_loss_weights=[1, 1, 1],
    bbox_head=[
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
    ])
cascade_train_cfg = [
    dict(
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=iou, neg_iou_thr=iou, match_low_quality=False),
        sampler=sampler,
        mask_size=28,
        pos_weight=-1,
        debug=False) for iou, sampler in (
            (0.5, dict(type='RandomSampler', num=512, pos_fraction=0.25)),
            # All boxes of the stage before.
            (0.6, dict(type='PseudoSampler')),
            (0.7, dict(type='PseudoSampler')))
]
