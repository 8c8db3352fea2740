# The ResNet-50 row of the paper's Table 5: MMDetection's own recipe in 50 epochs.
_base_ = ['mmdet::detr/detr_r50_8xb2-150e_coco.py', '../_base_/plugin.py']

max_epochs = 50
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(
        type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[40], gamma=0.1)
]
