# MH-DW-3: a 3 x 3 affinity, one kernel per head of 32 channels.
_base_ = '../_base_/imagenette_table_2.py'

model = dict(backbone=dict(arch=dict(
    static=dict(kind='depthwise', kernel_size=3, num_heads=(2, 4, 10, 16)))))
