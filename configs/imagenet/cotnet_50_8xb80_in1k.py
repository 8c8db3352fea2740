# CoTNet-50 as cot_experiments/CoTNet-50-350epoch trains it.
_base_ = '../_base_/imagenet_cotnet.py'

model = dict(backbone=dict(arch='cotnet-50'))
