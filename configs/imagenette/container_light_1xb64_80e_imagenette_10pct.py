# 10 % of the training images of every class, seen 10 times as often: as many iterations as with all
# of them. Make the list first (DIR: the data root):
#   python tools/make_imagenet_subset.py DIR/train --share 0.1 --out DIR/meta/train_10pct.txt
_base_ = './container_light_1xb64_8e_imagenette.py'

train_dataloader = dict(dataset=dict(ann_file='meta/train_10pct.txt'))
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = 10
param_scheduler[1].begin = 10
train_cfg = dict(max_epochs=80, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))
