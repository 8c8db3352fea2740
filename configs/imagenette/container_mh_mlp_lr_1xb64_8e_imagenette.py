# MH-MLP-LR: a learned affinity matrix of low rank per head of 32 channels.
_base_ = '../_base_/imagenette_table_2.py'

model = dict(backbone=dict(arch=dict(
    static=dict(
        kind='low-rank', rank_ratio=(1 / 8, 1 / 4, 1 / 2, 1.), num_heads=(2, 4, 10, 16)))))
