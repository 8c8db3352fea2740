# Table 3: 10 % of the training images of every class. Make the list first (DIR: the data root):
#   python tools/make_imagenet_subset.py DIR/train --share 0.1 --out DIR/meta/train_10pct.txt
_base_ = './deit_s_8xb128_in1k.py'

train_dataloader = dict(dataset=dict(ann_file='meta/train_10pct.txt'))
