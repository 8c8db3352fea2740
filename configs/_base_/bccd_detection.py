# BCCD: 205 microscope images of blood cells to train on, 87 to watch, 72 to test on; they have
# 640 x 480 pixels, and are read at 320 x 240.
_base_ = './small_detection.py'

_data = dict(
    data_root='data/bccd/',
    metainfo=dict(classes=('RBC', 'WBC', 'Platelets')))
model = dict(bbox_head=dict(num_classes=3))
train_dataloader = dict(dataset=_data)
val_dataloader = dict(dataset=_data)
test_dataloader = dict(dataset=dict(**_data, ann_file='annotations/test.json'))
val_evaluator = dict(ann_file='data/bccd/annotations/val.json')
test_evaluator = dict(ann_file='data/bccd/annotations/test.json')
