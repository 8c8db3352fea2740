# A classifier: the last stage after its norm, averaged over positions, then one linear layer.
model = dict(
    # Out of `mmcontainer::`, MMEngine would look for the classifier in this package.
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(
        type='Container', arch='light', out_indices=(3, ), final_norm=True, drop_path_rate=0.1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=512,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        # Smooths the targets that mixup and cutmix mixed, as DeiT does.
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    # One of the two for every batch.
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8),
                             dict(type='CutMix', alpha=1.0)]))
