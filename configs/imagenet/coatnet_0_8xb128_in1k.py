# CoAtNet-0 in DeiT's recipe, as this project's other backbones have it (the paper's own: 4096
# images an iteration). Drop path and the hidden layer of the classifier are the paper's.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(
    backbone=dict(type='CoAtNet', arch='coatnet-0', drop_path_rate=0.2),
    head=dict(
        type='StackedLinearClsHead',
        in_channels=768,
        mid_channels=[768],
        act_cfg=dict(type='Tanh')))
