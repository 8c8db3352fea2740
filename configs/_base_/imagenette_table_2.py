# What the rows of Container's Table 2 have in common (container_archs.py), with position tables and
# affinity matrices for 64 x 64 pixels instead of 224 x 224.
_base_ = './imagenette.py'

model = dict(
    # Out of `mmcontainer::`, MMEngine would look for the classifier in this package.
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(
        type='Container',
        arch=dict(
            embed_dims=(64, 128, 320, 512),
            depths=(3, 4, 8, 3),
            patch_sizes=(4, 2, 2, 2),
            mlp_ratios=(4, 4, 4, 4),
            pos_embed='table',
            image_size=64,
            num_heads=(None, None, None, None)),
        out_indices=(3, ),
        final_norm=True),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=512,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))
