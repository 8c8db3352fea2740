# Table 2, MH-DW-3: depth-wise 3 x 3 affinity, one kernel per head of 32 channels.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(backbone=dict(arch='mh-dw-3'))
