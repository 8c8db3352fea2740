# Table 2, H-DeiT-S: self-attention alone, in four stages.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(backbone=dict(arch='h-deit-s'))
