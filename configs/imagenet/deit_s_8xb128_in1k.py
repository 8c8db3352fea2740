# The baseline of Tables 1 and 3: MMPretrain's DeiT-S with DeiT's initialisation, trained as our
# models are.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

custom_imports = dict(
    imports=['mmcontainer', 'mmcontainer.selfsup'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='DeiTVisionTransformer',
        arch='deit-small',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1),
    neck=None,  # the class token, not an average
    # The names of MMPretrain's published weights, so that they load.
    head=dict(
        type='VisionTransformerClsHead',
        in_channels=384,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02)))
