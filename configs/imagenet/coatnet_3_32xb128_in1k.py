# CoAtNet-3 in the paper's own recipe.
_base_ = '../_base_/imagenet_coatnet.py'

model = dict(
    backbone=dict(arch='coatnet-3', drop_path_rate=0.7),
    head=dict(in_channels=1536, mid_channels=[1536]))
