# Single scale: the map of stride 32 alone, as in the paper's Table 5.
_base_ = [
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', '../_base_/plugin.py',
    '../_base_/detr_data.py'
]

model = dict(
    num_feature_levels=1,
    backbone=dict(out_indices=(3, )),
    # A bias although a norm follows, as in the official code.
    neck=dict(in_channels=[2048], num_outs=1, bias=True),
    encoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_levels=1))),
    decoder=dict(layer_cfg=dict(cross_attn_cfg=dict(num_levels=1))))

# 8 GPUs x 4 images = 32, like the 16 x 2 of the base.
train_dataloader = dict(**_base_.detr_train_dataloader, batch_size=4)
val_dataloader = _base_.detr_test_dataloader
test_dataloader = val_dataloader
