_base_ = ['./multi_scale_smca_detr_r50_50e_coco.py', '../_base_/container_light.py']

model = dict(
    backbone=dict(_delete_=True, **_base_.backbone, out_indices=(1, 2, 3)),
    neck=dict(in_channels=_base_.channels[1:]))
