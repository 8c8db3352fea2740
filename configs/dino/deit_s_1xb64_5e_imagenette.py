# DeiT-S with the patches of 16 pixels that it has in the paper: 4 x 4 and 2 x 2 tokens.
_base_ = './container_light_1xb64_5e_imagenette.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='DINOVisionTransformer',
        arch='deit-small',
        img_size=64,
        patch_size=16,
        drop_path_rate=0.1),
    neck=None,
    head=dict(in_channels=384))
