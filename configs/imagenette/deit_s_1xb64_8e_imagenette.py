# MMPretrain's DeiT-S with patches of 8 pixels: 8 x 8 of them.
_base_ = '../_base_/imagenette_classifier.py'

model = dict(
    backbone=dict(
        _delete_=True, type='VisionTransformer', arch='deit-small', img_size=64, patch_size=8),
    neck=None,  # the class token, not an average
    head=dict(type='VisionTransformerClsHead', in_channels=384),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.)
    ])
