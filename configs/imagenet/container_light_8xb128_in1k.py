# The size of the released weights: MLP ratios 8, 8, 4, 4; 20.6 M parameters.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(backbone=dict(type='ContainerLight'))
