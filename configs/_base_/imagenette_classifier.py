# The last stage after its norm, averaged over positions, then one linear layer.
_base_ = './imagenette.py'

model = dict(
    # Out of `mmcontainer::`, MMEngine would look for the classifier in this package.
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(out_indices=(3, ), final_norm=True),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=512,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))
