# Table 2, MLP-LR: the matrix of MLP as a product of two smaller ones.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(backbone=dict(arch='mlp-lr'))
