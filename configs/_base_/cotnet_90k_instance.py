# The official recipe of CoTNet, boxes and masks: as cotnet_90k_detection.py, but with a short side
# of 640, 672, ... or 800.
_base_ = ['mmdet::common/ms-poly-90k_coco-instance.py', './plugin.py']

optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
custom_hooks = [*_base_.custom_hooks, dict(type='PreciseBNHook', num_iters=200)]
