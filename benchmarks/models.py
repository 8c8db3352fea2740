"""Contestants: backbones of this package, their plain forms, and what users would pick instead.

All detectors are the same RetinaNet of MMDetection (FPN from stride 8 on, 80 classes), with another
backbone. Arguments are those of the detection configs of each backbone.
"""
import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, Optional
from unittest import mock

import mmdet.models  # noqa: F401  registers
import mmpretrain.models  # noqa: F401
import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch import Tensor, nn

import mmcontainer  # noqa: F401  registers the backbones
from mmcontainer.cli.configs import load_config
from mmcontainer.engine.dense_parts import deploy_dense_parts
from mmcontainer.ops.local_aggregation import unfold_local_aggregation

from .plain_forms import PlainContainerLight
from .runtimes import RUNTIMES

RETINANET = 'mmdet::_base_/models/retinanet_r50_fpn.py'
FROZEN_BN = dict(type='BN', requires_grad=False)


class Contestant(NamedTuple):
    """A row of the table below.

    Attributes:
        backbone (dict): Config.
        channels (tuple[int, ...]): Of its outputs at strides 4, 8, 16, 32.
        plain (str, optional): This is the plain form of that backbone, which counts alike.
    """
    backbone: dict
    channels: tuple[int, ...]
    plain: Optional[str] = None


_LIGHT = dict(type='ContainerLight', drop_path_rate=0.1, norm_cfg=FROZEN_BN, norm_eval=True)
_COTNET = dict(type='CoTNet', arch='cotnet-50', norm_cfg=FROZEN_BN, norm_eval=True)
_LIGHT_CHANNELS, _RESNET_CHANNELS = (64, 128, 320, 512), (256, 512, 1024, 2048)
LIGHT, PLAIN_LIGHT = 'Container-Light', 'Container-Light, plain'
COTNET, UNFOLD_COTNET, COATNET = 'CoTNet-50', 'CoTNet-50, unfold', 'CoAtNet-0'
RESNET, SWIN, PVT, CONVNEXT = 'ResNet-50', 'Swin-T', 'PVTv2-B2', 'ConvNeXt-T'

CONTESTANTS: dict[str, Contestant] = {
    LIGHT: Contestant(_LIGHT, _LIGHT_CHANNELS),
    PLAIN_LIGHT: Contestant(_LIGHT, _LIGHT_CHANNELS, plain=LIGHT),
    COTNET: Contestant(_COTNET, _RESNET_CHANNELS),
    UNFOLD_COTNET: Contestant(_COTNET, _RESNET_CHANNELS, plain=COTNET),
    COATNET: Contestant(
        dict(type='CoAtNet', arch='coatnet-0', drop_path_rate=0.1, norm_cfg=FROZEN_BN,
             norm_eval=True), (96, 192, 384, 768)),
    RESNET: Contestant(
        dict(type='mmdet.ResNet', depth=50, frozen_stages=1, norm_eval=True, style='pytorch',
             norm_cfg=dict(type='BN', requires_grad=True)), _RESNET_CHANNELS),
    SWIN: Contestant(
        dict(type='mmdet.SwinTransformer', embed_dims=96, depths=[2, 2, 6, 2],
             num_heads=[3, 6, 12, 24], window_size=7, drop_path_rate=0.2), (96, 192, 384, 768)),
    PVT: Contestant(
        dict(type='mmdet.PyramidVisionTransformerV2', embed_dims=64, num_layers=[3, 4, 6, 3]),
        _LIGHT_CHANNELS),
    CONVNEXT: Contestant(
        dict(type='mmpretrain.ConvNeXt', arch='tiny', out_indices=(0, 1, 2, 3), drop_path_rate=0.4,
             layer_scale_init_value=1.0, gap_before_final_norm=False), (96, 192, 384, 768)),
}

# A model of this package in another runtime, or in PyTorch, in a process of its own.
IN_PROCESSES: dict[str, tuple[str, str]] = {
    f'{model}, {runtime}': (model, runtime)
    for model in (LIGHT, COTNET, COATNET) for runtime in RUNTIMES}
DEFAULT_PROCESSES = [name for name, (model, _) in IN_PROCESSES.items() if model == LIGHT]


class UnfoldForm(nn.Module):
    """CoTNet as one writes it in plain PyTorch: in NCHW, every neighbourhood copied by unfold."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.contiguous_format)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with unfold_aggregation():
            return self.backbone(images)


def aggregate(x: Tensor, weight: Tensor, *args) -> Tensor:
    """Aggregation by unfold, in the type of ``x``: under autocast, weights come in float32."""
    return unfold_local_aggregation(x, weight, *args).to(x.dtype)


@contextmanager
def unfold_aggregation() -> Iterator[None]:
    """Let CoTNets aggregate with ``F.unfold``, and keep the memory format of their images."""
    replaced = [('mmcontainer.layers.cot', 'local_aggregation', aggregate)] + [
        (f'mmcontainer.backbones.{name}', function, lambda x: x)
        for name, function in (('cotnet', 'prefer_channels_last'), ('base', 'as_output'))]
    with ExitStack() as stack:
        for module, name, function in replaced:
            stack.enter_context(mock.patch(f'{module}.{name}', function))
        yield


def plain_form(name: str, backbone: nn.Module) -> nn.Module:
    """The form without this package's ways of computing; gradients flow as in the original."""
    if name == PLAIN_LIGHT:
        return PlainContainerLight(backbone)
    return UnfoldForm(backbone)


def build(config: dict) -> nn.Module:
    """A model with random weights, always the same."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(copy.deepcopy(config))
        model.init_weights()
    return model


def build_backbone(name: str, deploy: bool) -> nn.Module:
    """A backbone with random weights.

    Args:
        name (str): Key of ``CONTESTANTS``.
        deploy (bool): Build it for inference, as ``tools/test.py`` does with its model: this
            package's own backbones are re-parameterised, plain forms and others stay as they are.
    """
    return finish(name, build(CONTESTANTS[name].backbone), deploy)


def finish(name: str, backbone: nn.Module, deploy: bool) -> nn.Module:
    """The backbone in its form, for inference or training."""
    if CONTESTANTS[name].plain is not None:
        backbone = plain_form(name, backbone)
    elif deploy and hasattr(backbone, 'switch_to_deploy'):
        backbone.switch_to_deploy()
    backbone.train(not deploy)  # Swin's returns nothing
    return backbone


def build_detector(name: str, deploy: bool) -> nn.Module:
    """RetinaNet with a backbone and random weights; see :func:`build_backbone`.

    For inference neck and head are deployed as well, as the tools do it with any backbone, but for
    those of plain forms.
    """
    contestant = CONTESTANTS[name]
    config = load_config(RETINANET).model
    config.backbone = copy.deepcopy(contestant.backbone)
    config.neck.in_channels = list(contestant.channels)
    detector = build(config)
    detector.backbone = finish(name, detector.backbone, deploy)
    detector.train(not deploy)
    if deploy and contestant.plain is None:
        deploy_dense_parts(detector)
    return detector
