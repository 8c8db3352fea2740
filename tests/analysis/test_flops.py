"""Multiply-adds against the papers' numbers and against counts by hand."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmcontainer.analysis import count_flops
from mmcontainer.analysis.report import report_flops
from mmcontainer.backbones import Container
from mmcontainer.cli.configs import load_config
from mmcontainer.errors import UserError
from mmcontainer.ops import local_aggregation


@pytest.mark.parametrize('config, flops, tolerance, parameters', [
    ('retinanet/container_light_paper_fpn_1x_coco.py', 218, 0.5, '29.7'),
    ('retinanet/container_light_fpn_1x_coco.py', 233, 0.5, '30.4'),
    ('retinanet/r50_fpn_1x_coco.py', 239, 0.5, '37.7'),
    ('mask_rcnn/container_light_paper_fpn_1x_coco.py', 237, 0.5, '39.6'),
    ('mask_rcnn/r50_fpn_1x_coco.py', 260, 0.5, '44.2'),
])
def test_detectors_of_the_paper(config, flops, tolerance, parameters):
    """Table 4 of the Container paper, and R50 of the same tables."""
    text = report_flops(f'mmcontainer::{config}', (800, 1280))
    last = text.splitlines()[-1].split()
    assert last[0] == 'FLOPs:' and last[2:4] == ['G', 'Params:'] and last[5] == 'M'
    assert abs(float(last[1]) - flops) <= tolerance
    assert last[4] == parameters
    assert ('1000 proposals' in text) == config.startswith('mask')


def test_cascade_without_masks():
    """Three box heads of four convolutions and a hidden layer, on 1000 proposals of 7 x 7."""
    cfg = load_config('mmcontainer::cascade_rcnn/cotnet_50_fpn_1x_coco.py')
    init_default_scope('mmdet')
    count = count_flops(MODELS.build(cfg.model), (1, 3, 64, 64))
    assert set(count.parts) == {'backbone', 'neck', 'rpn_head', 'bbox_head'}
    conv, norm = 49 * 9 * 256 * 256, 49 * 256
    head = 4 * conv + 256 * 49 * 1024 + 1024 * (81 + 4)
    assert 0 <= count.parts['bbox_head'] - 3000 * head <= 3000 * 4 * 4 * norm


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Container('light-paper', final_norm=True)
        self.head = nn.Linear(512, 1000)

    def forward(self, x):
        return self.head(self.backbone(x)[-1].mean((2, 3)))


def test_classifier_of_the_paper():
    count = count_flops(Classifier(), (1, 3, 224, 224))
    assert round(count.flops / 1e9, 3) == 3.137
    assert round(count.parameters / 1e6, 3) == 20.008
    assert set(count.parts) == {'backbone', 'head'}


class Attention(BaseModule):
    """Projections and attention of N positions, by SDPA or by explicit products."""

    def __init__(self, explicit):
        super().__init__()
        self.explicit = explicit
        self.qkv = nn.Linear(16, 48, bias=False)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
        if self.explicit:
            return (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize('explicit', [False, True])
def test_attention_is_counted(explicit):
    model, n = Attention(explicit), 50
    expected = n * 16 * 48 + 2 * n * n * 16
    assert count_flops(model, torch.zeros(1, n, 16)).flops == expected
    assert count_flops(model, (3, n, 16)).flops == 3 * expected


def test_values_are_only_computed_where_they_must_be():
    """On the CPU, other kernels run than on the meta device: the count is the same."""

    class Needy(Attention):
        def forward(self, x):
            assert x.sum().item() == 0  # not possible on the meta device
            return super().forward(x)

    count = count_flops(Needy(explicit=False), (1, 50, 16))
    assert count.flops == count_flops(Attention(explicit=False), (1, 50, 16)).flops
    assert 'CPU' in count.notes[0]


@pytest.mark.parametrize('module, shape, expected', [
    (nn.Conv2d(8, 16, 3, padding=1, groups=4), (2, 8, 5, 7), 2 * 5 * 7 * 16 * 2 * 9),
    (nn.BatchNorm2d(8), (2, 8, 5, 7), 2 * 2 * 8 * 5 * 7),
    (nn.LayerNorm(8), (2, 5, 8), 5 * 2 * 5 * 8),
    (nn.GroupNorm(2, 8), (2, 8, 5, 7), 5 * 2 * 8 * 5 * 7),
    (nn.SyncBatchNorm(8), (2, 8, 5, 7), 2 * 2 * 8 * 5 * 7),
    (nn.GELU(), (2, 8, 5, 7), 0),
])
def test_single_operators(module, shape, expected):
    assert count_flops(module, shape).flops == expected


def test_local_aggregation():
    class Aggregate(nn.Module):
        def forward(self, x):
            return local_aggregation(x, x.new_zeros(2, 2, 3, 25, 4, 5), kernel_size=5)

    assert count_flops(Aggregate(), (2, 6, 4, 5)).flops == 2 * (2 * 6) * 4 * 5 * 25


def test_grid_sampling_of_deformable_attention():
    class Sample(nn.Module):
        def forward(self, x):
            return F.grid_sample(x, x.new_zeros(x.shape[0], 3, 4, 2), align_corners=False)

    assert count_flops(Sample(), (2, 5, 9, 9)).flops == 4 * 2 * 5 * 3 * 4


def test_detector_with_transformer():
    """DETR needs data samples in tensor mode; its paper gives 86 G at a smaller mean size."""
    cfg = load_config('mmdet::detr/detr_r50_8xb2-150e_coco.py')
    init_default_scope('mmdet')
    count = count_flops(MODELS.build(cfg.model), (1, 3, 800, 1280))
    assert {'backbone', 'encoder', 'decoder'} <= set(count.parts)
    n, d, hidden = 25 * 40, 256, 2048
    layer = n * (4 * d * d + 2 * d * hidden) + 2 * n * n * d + 2 * 5 * n * d
    assert count.parts['encoder'] == pytest.approx(6 * layer)


def test_the_model_is_left_as_it_is():
    model = Container('light').train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count_flops(model, (1, 3, 64, 64))
    assert model.training
    assert {p.device.type for p in model.parameters()} == {'cpu'}
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_odd_sizes_are_padded_like_images():
    text = report_flops('mmcontainer::retinanet/container_light_fpn_1x_coco.py', (100, 90))
    assert '128 x 96 (padded from 100 x 90)' in text
    with pytest.raises(UserError, match='at least 32'):
        report_flops('mmcontainer::retinanet/container_light_fpn_1x_coco.py', (16, 900))


def test_grey_images_have_one_channel():
    config, size = 'mmcontainer::retinanet/container_light_fpn_1x_coco.py', (64, 64)
    grey, colour = (report_flops(config, size, options) for options in (
        {'model.backbone.in_channels': 1}, None))
    assert grey != colour and 'Params' in grey
    assert report_flops('mmcontainer::retinanet/r50_fpn_1x_coco.py', size,
                        {'model.backbone.in_channels': 1})
