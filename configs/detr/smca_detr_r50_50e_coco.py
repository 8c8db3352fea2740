# Single scale, with the arguments that the official README trains with; data are those of DETR.
_base_ = './detr_r50_default_50e_coco.py'

custom_imports = dict(imports=['mmcontainer', 'mmcontainer.detectors'])

model = dict(
    type='SMCADETR',
    num_queries=300,
    decoder=dict(layer_cfg=dict(dynamic_scale='type3', smooth=8.)),
    bbox_head=dict(
        type='SMCAHead',
        sync_cls_avg_factor=True,
        loss_cls=dict(
            _delete_=True,
            type='FocalLoss',
            use_sigmoid=True,
            gamma=2.,
            alpha=0.25,
            loss_weight=2.)),
    train_cfg=dict(
        assigner=dict(match_costs=[
            dict(type='FocalLossCost', weight=2., eps=1e-8),
            dict(type='BBoxL1Cost', weight=5., box_format='xywh'),
            dict(type='IoUCost', iou_mode='giou', weight=2.)
        ])),
    test_cfg=dict(max_per_img=300))

param_scheduler = _base_.param_scheduler
param_scheduler[0].milestones = [40]
