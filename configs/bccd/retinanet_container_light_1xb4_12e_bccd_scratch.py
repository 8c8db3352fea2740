# From random weights: batch norms learn. Without drop path, which ResNet-50 has not.
_base_ = './retinanet_container_light_1xb4_12e_bccd.py'

model = dict(
    backbone=dict(
        drop_path_rate=0.0, norm_cfg=dict(requires_grad=True), norm_eval=False, init_cfg=None))
