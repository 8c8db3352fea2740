# 800 x 1333, horizontal flip; boxes and masks.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'
