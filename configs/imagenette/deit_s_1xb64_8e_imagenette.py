# MMPretrain's DeiT-S with patches of 8 pixels: 8 x 8 of them.
_base_ = '../_base_/imagenette_classifier.py'

custom_imports = dict(
    imports=['mmcontainer', 'mmcontainer.selfsup'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True, type='DeiTVisionTransformer', arch='deit-small', img_size=64, patch_size=8),
    neck=None,  # the class token, not an average
    head=dict(
        type='VisionTransformerClsHead',
        in_channels=384,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02)))
