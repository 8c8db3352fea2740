# H-DeiT-S: attention alone.
_base_ = '../_base_/imagenette_table_2.py'

model = dict(backbone=dict(arch=dict(num_heads=(2, 4, 10, 16), static=None)))
