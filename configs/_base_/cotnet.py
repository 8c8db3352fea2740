# Named parts for the leaf configs; two bases may not both define `model`.
# The official recipe (README of github.com/JDAI-CV/CoTNet-ObjectDetection-InstanceSegmentation, its
# configs and logs): SyncBN in backbone, FPN and heads; stem and first stage frozen.
norm_cfg = dict(type='SyncBN', requires_grad=True)
backbone = dict(
    type='CoTNet',
    arch='cotnet-50',
    frozen_stages=1,
    norm_cfg=norm_cfg,
    norm_eval=False,
    init_cfg=dict(type='StrictPretrained', checkpoint='checkpoints/cotnet_50_in1k.pth'))
channels = [256, 512, 1024, 2048]
box_head = dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg)
# detectron2 draws its last layer near zero, so the first loss is log 2 (0.693 in the logs).
mask_head = dict(type='SmallInitMaskHead', norm_cfg=norm_cfg)
# detectron2 gives every object its best anchors, however little they overlap (MMDetection asks for
# an IoU of 0.3), and trains on anchors that cross the border of the image.
rpn_train_cfg = dict(assigner=dict(min_pos_iou=0.), allowed_border=-1)
