# The demo: Container-Light in RetinaNet, from scratch, on the generated data set of
# `python -m mmcontainer.demo.shapes data/shapes`, in about ten minutes on two CPU cores.
# The backbone is the full one; what follows it is cut to the size of the task.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py', '../_base_/shapes_detection.py',
    '../_base_/container_light.py'
]

width = 64
# From scratch, a neck and a head without norms would take several times as long to learn. Group
# norm, because batch norm would mix the statistics of the levels that share the head.
norm_cfg = dict(type='GN', num_groups=16)

model = dict(
    # Nothing is pretrained, so batch norm has its statistics to learn (the default); and 1000
    # iterations are too few to overfit, so no drop path.
    backbone=dict(_delete_=True, type='ContainerLight', init_cfg=None),
    # Strides 4 to 32, not 8 to 128: the shapes are 10 to 50 pixels long.
    neck=dict(
        in_channels=_base_.channels, start_level=0, num_outs=4, out_channels=width,
        norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=len(_base_.metainfo.classes),
        in_channels=width,
        feat_channels=width,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        # 2 square anchors per position instead of 9: each of them sees more of the few examples.
        anchor_generator=dict(scales_per_octave=2, ratios=[1.0], strides=[4, 8, 16, 32]),
        # Optimises IoU itself, which helps at the strict thresholds of AP.
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=1.0)))
