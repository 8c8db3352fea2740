# Container-Light of the size that the paper's tables have. Batch norms are synchronised, as DINO's
# code does it with any network that has some.
_base_ = '../_base_/dino.py'

model = dict(
    backbone=dict(
        type='ContainerLight',
        arch='light-paper',
        out_indices=(3, ),
        final_norm=True,
        drop_path_rate=0.1,
        norm_cfg=dict(type='SyncBN')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=512))
