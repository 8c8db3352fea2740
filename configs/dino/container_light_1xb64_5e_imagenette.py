# DINO on a CPU: Imagenette (9469 photographs of 10 classes, 3925 to classify), crops of 64 and 32
# pixels, 5 epochs. Its numbers are for the comparison with deit_s_1xb64_5e_imagenette.py and with
# the untrained network.
_base_ = './container_light_8xb64_100e_in1k.py'

# One process: plain batch norms compute the same.
model = dict(
    backbone=dict(norm_cfg=dict(type='BN')),
    # Fewer than ImageNet's: an epoch has 147 iterations.
    head=dict(out_channels=4096),
    # So short a training needs a teacher that follows faster, and a higher learning rate.
    teacher_momentum=0.99)

train_pipeline = _base_.train_pipeline
train_pipeline[1].num_views = [1, 1, 2]
for crops, side in zip(train_pipeline[1].transforms, (64, 64, 32)):
    crops[0].scale = side
resize = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=64, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=64)
]
_data = dict(_scope_='mmpretrain', type='CustomDataset', data_root='data/imagenette')
training_images = dict(**_data, data_prefix='train')
images = dict(**_data, data_prefix='val')
train_dataloader = dict(
    num_workers=1,
    dataset=dict(_delete_=True, **training_images, pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(datasets=[
        dict(**training_images, pipeline=[*resize, *_base_.reference_pipeline[3:]]),
        dict(**images, pipeline=[*resize, dict(type='PackInputs')])
    ]))
test_dataloader = val_dataloader
val_evaluator = dict(k=(10, 20))
test_evaluator = val_evaluator

# bfloat16 on a CPU; on a GPU this is float32.
optim_wrapper = dict(type='CPUAmpOptimWrapper', optimizer=dict(lr=5e-4))
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = 1
param_scheduler[1].begin = 1
train_cfg = dict(max_epochs=5, val_interval=1)
custom_hooks = [
    dict(type='DINOHook', freeze_last_layer=1, evaluates_untrained=True),
    *_base_.custom_hooks[1:]
]
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
