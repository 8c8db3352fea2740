# The model with AP 44.4 of the official repository: four levels, an encoder of convolutions, 8 GPUs
# with one image each. Two things differ. The release has no padding, which its encoder would see;
# images are padded to a multiple of 32 here, as Container rounds odd maps down (for an official
# checkpoint set pad_size_divisor=1). And the release keeps 500 detections per image, five times as
# many as COCO's rules allow: set max_per_img=500 to compare with its AP.
_base_ = './smca_detr_r50_50e_coco.py'

model = dict(
    type='MultiScaleSMCADETR',
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(in_channels=[512, 1024, 2048], num_outs=4),
    encoder=dict(
        layer_cfg=dict(
            _delete_=True,
            embed_dims=256,
            kernel_size=7,
            shared_exchange=True,
            dropout=0.1,
            ffn_cfg=dict(
                embed_dims=256,
                feedforward_channels=1024,
                num_fcs=2,
                ffn_drop=0.1,
                act_cfg=dict(type='ReLU', inplace=True)))),
    decoder=dict(layer_cfg=dict(ffn_cfg=dict(feedforward_channels=1024))),
    test_cfg=dict(max_per_img=100))

train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
