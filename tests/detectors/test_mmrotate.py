"""MMRotate's detectors take our backbones by name."""
import pytest
import torch
from built import build_empty
from mmengine.config import Config

import mmcontainer  # noqa: F401

pytest.importorskip('mmrotate', reason='needs MMRotate: make test-seg')

DETECTORS = ('rotated_retinanet/rotated-retinanet-rbox-le90_r50_fpn_1x_dota',
             'oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota')
BACKBONES = [(dict(type='ContainerLight'), [64, 128, 320, 512]),
             (dict(type='CoTNet', arch='cotnet-50'), [256, 512, 1024, 2048]),
             (dict(type='CoAtNet', arch='coatnet-0'), [96, 192, 384, 768])]


@pytest.mark.parametrize('detector', DETECTORS)
@pytest.mark.parametrize('backbone, channels', BACKBONES, ids=lambda value: str(value)[:24])
def test_detector_builds_and_finds_its_maps(detector, backbone, channels):
    from mmengine.utils import get_installed_path
    cfg = Config.fromfile(f'{get_installed_path("mmrotate")}/.mim/configs/{detector}.py')
    cfg.model.backbone, cfg.model.neck.in_channels = backbone, channels
    model = build_empty(cfg).eval()
    assert type(model.backbone).__name__ == backbone['type']
    assert type(model.backbone).__module__.startswith('mmcontainer.')
    maps = model.extract_feat(torch.empty(1, 3, 128, 128, device='meta'))
    assert len(maps) == 5 and {level.shape[1] for level in maps} == {256}
