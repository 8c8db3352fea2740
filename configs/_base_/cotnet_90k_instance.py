# The official recipe of CoTNet, boxes and masks: as cotnet_90k_detection.py, but with a short side
# of 640, 672, ... or 800.
_base_ = ['mmdet::common/ms-poly-90k_coco-instance.py', './plugin.py']

# Any short side from 640 to 800, as the published runs of CoTNeXt-101 and of Mask R-CNN with
# CoTNet-101 have it.
any_short_side_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None, imdecode_backend='pillow'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(
        type='RandomResize',
        scale=[(1333, 640), (1333, 800)],
        keep_ratio=True,
        backend='pillow'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]

optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
custom_hooks = [*_base_.custom_hooks, dict(type='PreciseBNHook', num_iters=200)]
