# The row "SE-CoTNetD-152, 320": tests on 320 x 320 pixels. Its weights are a file of their own, of
# which no training is published; a training with this config is that of SE-CoTNetD-152.
_base_ = './se_cotnetd_152_8xb64_in1k.py'

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 352
test_pipeline[2].crop_size = 320
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
