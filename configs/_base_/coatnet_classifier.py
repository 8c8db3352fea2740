# CoAtNet-0 as a classifier, with the paper's drop path and hidden layer.
_base_ = './imagenet_classifier.py'

model = dict(
    backbone=dict(type='CoAtNet', arch='coatnet-0', drop_path_rate=0.2),
    head=dict(
        type='StackedLinearClsHead',
        in_channels=768,
        mid_channels=[768],
        act_cfg=dict(type='Tanh')))
