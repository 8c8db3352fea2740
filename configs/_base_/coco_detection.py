# 800 x 1333, horizontal flip; boxes.
_base_ = 'mmdet::_base_/datasets/coco_detection.py'
