# Table 2, MH-MLP-LR: such a product for every head.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(backbone=dict(arch='mh-mlp-lr'))
