# DETR's own recipe, cut after 50 epochs: images of 480 to 800 pixels, half of them cropped, no
# padding beyond the batch. Its learning rate drops at epoch 200, so that here it never does.
_base_ = ['./detr_r50_50e_coco.py', '../_base_/detr_data.py']

model = dict(data_preprocessor=dict(pad_size_divisor=1))

train_dataloader = _base_.detr_train_dataloader
val_dataloader = _base_.detr_test_dataloader
test_dataloader = val_dataloader

param_scheduler = [
    dict(
        type='MultiStepLR',
        begin=0,
        end=_base_.max_epochs,
        by_epoch=True,
        milestones=[200],
        gamma=0.1)
]
