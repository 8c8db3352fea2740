# Single scale, with the arguments that the official README trains with.
_base_ = './detr_r50_50e_coco.py'

custom_imports = dict(imports=['mmcontainer', 'mmcontainer.detectors'])

model = dict(
    type='SMCADETR',
    num_queries=300,
    # PyTorch's default for convolutions, as in the official code.
    neck=dict(
        init_cfg=dict(
            type='Kaiming', layer='Conv2d', a=5**0.5, distribution='uniform', mode='fan_in',
            nonlinearity='leaky_relu')),
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
