_base_ = '../_base_/voc_detection.py'
