"""The config of a detector that has a test pipeline, and whose model a test replaces."""
from mmengine.config import Config

TEXT = """
default_scope = 'mmdet'
model = dict(type='RetinaNet')
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=[
    dict(type='LoadImageFromFile', {loader}),
    dict(type='Resize', scale=(200, 120), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
"""


def make_config(loader=''):
    """The config, with arguments of the loader."""
    return Config.fromstring(TEXT.format(loader=loader), '.py')
