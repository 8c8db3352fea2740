# SE-CoTNetD-152 as cot_experiments/SE-CoTNetD-152_350epoch trains it. The code trains and tests it
# on 256 x 256 pixels, although the README's table says 224.
_base_ = '../_base_/imagenet_cotnet.py'

model = dict(backbone=dict(arch='se-cotnetd-152', drop_path_rate=0.15))

train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = 256
# The two Translate operations: still 150 pixels.
train_pipeline[3].policies[13].magnitude_range = (0, 150 / 256)
train_pipeline[3].policies[14].magnitude_range = (0, 150 / 256)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 288
test_pipeline[2].crop_size = 256
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=0.2))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 1e-4 / 0.2
auto_scale_lr = dict(base_batch_size=512)
