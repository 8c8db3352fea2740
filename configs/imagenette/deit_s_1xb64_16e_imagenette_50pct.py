# 50 % of the training images of every class, seen 2 times as often: as many iterations as with all
# of them. Make the list first (DIR: the data root):
#   python tools/make_imagenet_subset.py DIR/train --share 0.5 --out DIR/meta/train_50pct.txt
_base_ = './deit_s_1xb64_8e_imagenette.py'

train_dataloader = dict(dataset=dict(ann_file='meta/train_50pct.txt'))
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = 2
param_scheduler[1].begin = 2
train_cfg = dict(max_epochs=16, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
