# Table 2, DW-3: depth-wise 3 x 3 affinity, one kernel per channel.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(backbone=dict(arch='dw-3'))
