# The baseline of Table 6: ViT-S/16.
_base_ = '../_base_/dino.py'

model = dict(
    backbone=dict(
        type='DINOVisionTransformer',
        arch='deit-small',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1),
    head=dict(in_channels=384))
