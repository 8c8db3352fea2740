# PASCAL VOC, 3119 photographs to train on and 307 to test on, 20 classes, read at 192 x 192 pixels
# at most; 4 epochs of 390 iterations.
_base_ = './small_detection.py'

_classes = (
    'chair', 'car', 'bicycle', 'person', 'dog', 'cat', 'horse', 'train', 'aeroplane', 'tvmonitor',
    'diningtable', 'bird', 'bottle', 'boat', 'pottedplant', 'motorbike', 'sofa', 'sheep', 'cow',
    'bus')
_data = dict(data_root='data/voc/', metainfo=dict(classes=_classes))
model = dict(bbox_head=dict(num_classes=20))
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = (192, 192)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (192, 192)
train_dataloader = dict(batch_size=8, dataset=dict(**_data, pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, dataset=dict(**_data, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/voc/annotations/val.json')
test_evaluator = val_evaluator

param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 4
param_scheduler[1].milestones = [3]
train_cfg = dict(max_epochs=4)
auto_scale_lr = dict(base_batch_size=8)
