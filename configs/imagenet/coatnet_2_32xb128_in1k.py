# CoAtNet-2 in the paper's own recipe.
_base_ = '../_base_/imagenet_coatnet.py'

model = dict(
    backbone=dict(arch='coatnet-2', drop_path_rate=0.5),
    head=dict(in_channels=1024, mid_channels=[1024]))
