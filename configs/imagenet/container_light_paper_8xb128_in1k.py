# The size of the paper's Tables 1 to 3: all MLP ratios are 4; 20.0 M parameters.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(backbone=dict(type='ContainerLight', arch='light-paper'))
