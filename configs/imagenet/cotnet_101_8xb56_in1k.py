# CoTNet-101 as cot_experiments/CoTNet-101-350epoch trains it.
_base_ = '../_base_/imagenet_cotnet.py'

model = dict(backbone=dict(arch='cotnet-101'))
train_dataloader = dict(batch_size=56)
optim_wrapper = dict(optimizer=dict(lr=0.175, weight_decay=6e-5))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 1e-4 / 0.175
auto_scale_lr = dict(base_batch_size=448)
