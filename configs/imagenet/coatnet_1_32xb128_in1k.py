# CoAtNet-1 in the paper's own recipe.
_base_ = '../_base_/imagenet_coatnet.py'

model = dict(backbone=dict(arch='coatnet-1', drop_path_rate=0.3))
