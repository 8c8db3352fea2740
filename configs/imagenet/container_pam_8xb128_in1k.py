# Container-PAM: DeiT-S with a learned static affinity matrix beside the self-attention.
_base_ = ['../_base_/imagenet_deit.py', '../_base_/imagenet_classifier.py']

model = dict(
    backbone=dict(type='ContainerPAM', arch='pam', out_indices=(0, ), out_type='cls_token'),
    neck=None,  # the class token, not an average
    head=dict(in_channels=384))
