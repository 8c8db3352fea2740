# DW-3: a depth-wise 3 x 3 affinity, one kernel per channel.
_base_ = '../_base_/imagenette_table_2.py'

model = dict(backbone=dict(arch=dict(static=dict(kind='depthwise', kernel_size=3))))
