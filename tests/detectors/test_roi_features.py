"""The heads on regions see the maps of the neck, whatever memory format convolutions prefer."""
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torchvision.ops import roi_align


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('backbone', ['ContainerLight', 'CoTNet', 'CoAtNet'])
def test_regions_are_pooled_from_the_right_places(repo_root, backbone, deploy):
    """Against torchvision's operator, which looks at strides; mmcv's takes them for granted.

    The images come in either format: on a GPU some backbones would hand it on.
    """
    cfg = Config.fromfile(repo_root / 'configs/mask_rcnn/container_light_fpn_1x_coco.py').model
    init_default_scope('mmdet')
    torch.manual_seed(0)
    network = MODELS.build(dict(type=backbone)).eval()
    network = network.switch_to_deploy() if deploy else network
    extractor = MODELS.build(cfg.roi_head.bbox_roi_extractor)
    rois = torch.tensor([[0., 5, 9, 70, 60], [0, 3, 2, 100, 40]])  # small: all on stride 4
    for memory_format in (torch.contiguous_format, torch.channels_last):
        image = torch.randn(1, 3, 96, 128).contiguous(memory_format=memory_format)
        with torch.no_grad():
            maps = network(image)
            neck = MODELS.build(dict(cfg.neck, in_channels=[m.shape[1] for m in maps]))
            levels = neck.eval()(maps)
            found = extractor(levels[:4], rois)
        expected = roi_align(levels[0], rois, 7, 1 / 4, -1, aligned=True)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
