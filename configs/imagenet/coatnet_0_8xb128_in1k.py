# CoAtNet-0 in DeiT's recipe, as this project's other backbones have it (the paper's own: 4096
# images an iteration).
_base_ = ['../_base_/imagenet_deit.py', '../_base_/coatnet_classifier.py']
