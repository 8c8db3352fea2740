# Table 2, Conv-3: 3 x 3 convolution.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(backbone=dict(arch='conv-3'))
