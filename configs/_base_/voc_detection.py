# PASCAL VOC, 3119 photographs to train on and 307 to test on, read at 192 x 192 pixels at most; 4
# epochs. Of the 20 classes these have at least 20 boxes in the test images, 743 of all 791: the
# others would make the mean AP one of single boxes.
_base_ = './small_detection.py'

_classes = ('chair', 'person', 'dog', 'cat', 'horse', 'sofa', 'sheep', 'cow')
_data = dict(data_root='data/voc/', metainfo=dict(classes=_classes))
model = dict(bbox_head=dict(num_classes=8))
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = (192, 192)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (192, 192)
train_dataloader = dict(batch_size=8, dataset=dict(**_data, pipeline=train_pipeline))
# One by one, so that no image is padded to the size of another.
val_dataloader = dict(batch_size=1, dataset=dict(**_data, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/voc/annotations/val.json')
test_evaluator = val_evaluator

param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 4
param_scheduler[1].milestones = [3]
train_cfg = dict(max_epochs=4)
auto_scale_lr = dict(base_batch_size=8)
