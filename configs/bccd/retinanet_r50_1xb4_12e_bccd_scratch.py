# From random weights: batch norms learn.
_base_ = './retinanet_r50_1xb4_12e_bccd.py'

model = dict(
    backbone=dict(norm_cfg=dict(requires_grad=True), norm_eval=False, init_cfg=None))
