# The ResNet-50 row of the paper's Table 4: MMDetection's own 1x recipe (SGD) and weights.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/plugin.py']
