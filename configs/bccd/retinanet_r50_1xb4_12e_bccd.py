_base_ = '../_base_/bccd_detection.py'
