# SE-CoTNetD-101 as cot_experiments/SE-CoTNetD-101_350epoch trains it.
_base_ = '../_base_/imagenet_cotnet.py'

model = dict(backbone=dict(arch='se-cotnetd-101'))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=0.2))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 1e-4 / 0.2
auto_scale_lr = dict(base_batch_size=512)
