# Table 2, Group Conv-3: 3 x 3 convolution in 8 groups.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(backbone=dict(arch='group-conv-3'))
