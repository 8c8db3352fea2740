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
