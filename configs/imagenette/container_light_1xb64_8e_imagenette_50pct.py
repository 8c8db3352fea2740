# 50 % of the training images of every class, 2 times in an epoch. Make the list first (DIR: the
# data root):
#   python tools/make_imagenet_subset.py DIR/train --share 0.5 --out DIR/meta/train_50pct.txt
_base_ = './container_light_1xb64_8e_imagenette.py'

images = dict(**_base_.train_dataloader.dataset, ann_file='meta/train_50pct.txt')
train_dataloader = dict(
    dataset=dict(_delete_=True, type='RepeatDataset', times=2, dataset=images))
