"""The config of a detector that has a test pipeline, and the arguments of ``tools/infer.py``."""
from argparse import Namespace

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


def infer_args(*images, **changes):
    """Arguments of ``tools/infer.py``, some of them changed."""
    return Namespace(**{**dict(
        images=list(map(str, images)), config='config.py', checkpoint='x.pth', cfg_options=None,
        out_dir='out', score_thr=0., device='cpu', recursive=False, max_pixels=10**6,
        no_deploy=False, amp=None, compile=False, no_pictures=False, coco=False,
        annotations=None), **changes})
