# From the classifier of imagenette/r50_1xb64_8e_imagenette.py.
_base_ = '../_base_/voc_detection.py'

model = dict(
    backbone=dict(
        norm_cfg=dict(requires_grad=False),
        init_cfg=dict(
            _delete_=True,
            type='StrictPretrained', checkpoint='checkpoints/r50_imagenette.pth')))
