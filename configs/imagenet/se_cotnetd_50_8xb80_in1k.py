# SE-CoTNetD-50 as cot_experiments/SE-CoTNetD-50_350epoch trains it.
_base_ = '../_base_/imagenet_cotnet.py'

model = dict(backbone=dict(arch='se-cotnetd-50'))
