# CoAtNet-0 in the paper's own recipe. (coatnet_0_8xb128_in1k has DeiT's, as Container.)
_base_ = '../_base_/imagenet_coatnet.py'
