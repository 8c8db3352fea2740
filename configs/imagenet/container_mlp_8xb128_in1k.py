# Table 2, MLP: one learned matrix over all positions.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(backbone=dict(arch='mlp'))
