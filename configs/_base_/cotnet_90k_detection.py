# The official recipe of CoTNet, boxes only: 90000 iterations of 8 GPUs x 2 images (12 epochs).
# Everything that is a default of detectron2 comes from MMDetection's twin of it: SGD with a rate of
# 0.02, divided by 10 after 60000 and 80000 iterations, warm-up of 1000 iterations from 0.001 of it,
# momentum 0.9, weight decay 1e-4, images resized by Pillow.
_base_ = ['mmdet::common/ms-90k_coco.py', './plugin.py']

# Any short side from 640 to 800.
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None, imdecode_backend='pillow'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='RandomResize',
        scale=[(1333, 640), (1333, 800)],
        keep_ratio=True,
        backend='pillow'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
custom_hooks = [*_base_.custom_hooks, dict(type='PreciseBNHook', num_iters=200)]
