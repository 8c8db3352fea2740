# The baseline of Tables 1 and 3: MMPretrain's own DeiT-S, trained as our models are.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch='deit-small',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1),
    neck=None,  # the class token, not an average
    # The names of MMPretrain's published weights, so that they load.
    head=dict(type='VisionTransformerClsHead', in_channels=384),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.)
    ])
