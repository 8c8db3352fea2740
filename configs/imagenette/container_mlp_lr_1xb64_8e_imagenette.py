# MLP-LR: a learned affinity matrix of low rank.
_base_ = '../_base_/imagenette_table_2.py'

model = dict(backbone=dict(arch=dict(
    static=dict(kind='low-rank', rank_ratio=(1 / 4, 1 / 2, 1., 1.)))))
