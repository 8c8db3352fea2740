"""What an ONNX file says of the test pipeline, and the comparison of one of a backbone."""
import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

from infer_config import make_config  # noqa: E402

from mmcontainer.cli.export import largest_error  # noqa: E402
from mmcontainer.cli.export_detector import _resize_step  # noqa: E402
from mmcontainer.errors import UserError  # noqa: E402


def pipeline_of(cfg):
    return cfg.test_dataloader.dataset.pipeline


@pytest.mark.parametrize(('scale', 'stored'), [((200, 120), [200, 120]), (64, [64, 64])])
def test_resize_is_stored(scale, stored):
    cfg = make_config()
    pipeline_of(cfg)[1].scale = scale
    assert _resize_step(cfg) == dict(
        scale=stored, keep_ratio=True, backend='cv2', interpolation='bilinear')


@pytest.mark.parametrize('loader', ["color_type='grayscale'",
                                    "color_type='color_ignore_orientation'"])
def test_other_ways_to_decode_are_refused(loader):
    with pytest.raises(UserError, match='LoadImageFromFile of the test pipeline'):
        _resize_step(make_config(loader))


@pytest.mark.parametrize('step', [
    dict(type='Pad', size=(200, 200)), dict(type='mmdet.CenterCrop', crop_size=64),
    dict(type='FixScaleResize', scale=(200, 120), keep_ratio=True)])
def test_other_steps_are_refused(step):
    cfg = make_config()
    pipeline_of(cfg).insert(2, step)
    with pytest.raises(UserError, match=f'{step["type"].split(".")[-1]} of the test pipeline'):
        _resize_step(cfg)
    pipeline_of(cfg).pop(2)
    pipeline_of(cfg).pop(1)
    with pytest.raises(UserError, match='must have one Resize'):
        _resize_step(cfg)


@pytest.mark.parametrize('broken', [0, 1])
def test_no_number_at_all_is_an_error(broken, monkeypatch):
    """Of the exported backbone, in whichever of its maps."""
    maps = [torch.randn(2, 3, 4, 4) for _ in range(2)]
    found = [one.numpy().copy() for one in maps]
    session = SimpleNamespace(run=lambda names, feed: found)
    monkeypatch.setattr(onnxruntime, 'InferenceSession', lambda *_, **__: session)

    def backbone(images):
        return maps

    backbone.in_channels = 3
    assert largest_error(backbone, 'file.onnx', 2, (4, 4)) == 0
    found[broken][1, 2, 3, 3] = float('nan')
    assert math.isnan(largest_error(backbone, 'file.onnx', 2, (4, 4)))
