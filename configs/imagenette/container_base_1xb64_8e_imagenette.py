# Container: attention and a depth-wise 3 x 3 affinity in all four stages.
_base_ = '../_base_/imagenette_table_2.py'

model = dict(backbone=dict(arch=dict(
    num_heads=(2, 4, 10, 16),
    static=dict(kind='depthwise', kernel_size=3))))
