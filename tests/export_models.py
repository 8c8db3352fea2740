"""Small detectors of every kind that can be exported, and pictures for them.

Untrained heads find nothing, or the same everywhere. These get weights that spread scores and boxes
out, so that there is something to compare.
"""
import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm

from mmcontainer.cli.configs import build_model, load_config

CONFIGS = {
    'retinanet': 'configs/retinanet/container_light_fpn_1x_coco.py',
    'detr': 'configs/detr/detr_container_light_50e_coco.py',
    'detr_unpadded': 'configs/detr/detr_container_light_default_50e_coco.py',
    'smca': 'configs/detr/smca_detr_container_light_50e_coco.py',
    'multi_scale_smca': 'configs/detr/multi_scale_smca_detr_container_light_50e_coco.py',
    'faster_rcnn': 'configs/faster_rcnn/cotnet_50_fpn_1x_coco.py',
    'mask_rcnn': 'configs/mask_rcnn/container_light_fpn_1x_coco.py',
    'cascade_mask_rcnn': 'configs/cascade_mask_rcnn/cotnet_50_fpn_1x_coco.py',
    'mmdet_cascade_mask_rcnn': 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'deformable_detr': 'configs/detr/deformable_detr_container_light_50e_coco.py',
}
CONTAINER = dict(
    type='Container', arch=dict(
        embed_dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), mlp_ratios=(1, 1, 1, 1),
        patch_sizes=(4, 2, 2, 2), num_heads=(None, None, None, 2),
        static=dict(kind='depthwise', kernel_size=3)))
COTNET = dict(
    type='CoTNet', arch=dict(
        stem=8, embed_dims=(32, 64, 64, 64), depths=(1, 1, 1, 1), widths=(16, 16, 16, 16),
        layers=('cot', 'coxt', 'gated', 'gated'), blur=True))
CLASSES = 4


def _shrink_transformer(model):
    width, ffn = dict(embed_dims=32), dict(embed_dims=32, feedforward_channels=16)
    model.backbone.out_indices = (3, )
    model.neck.update(in_channels=[16], out_channels=32)
    if model.type == 'MultiScaleSMCADETR':
        model.backbone.out_indices = (1, 2, 3)
        model.neck.in_channels = [16, 16, 16]
        model.encoder.layer_cfg.update(width)
    if model.type == 'DeformableDETR':
        model.neck.norm_cfg = dict(type='GN', num_groups=4)
    model.update(num_queries=30, test_cfg=dict(max_per_img=25))
    model.positional_encoding.num_feats = 16
    for part, layers in ((model.encoder, 1), (model.decoder, 2)):
        part.num_layers = layers
        part.layer_cfg.ffn_cfg.update(ffn)
        for name in ('self_attn_cfg', 'cross_attn_cfg'):
            if name in part.layer_cfg:
                part.layer_cfg[name].update(width)
    model.bbox_head.update(num_classes=CLASSES, embed_dims=32)


def _shrink_regions(model):
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.test_cfg.rpn.update(nms_pre=100, max_per_img=60)
    roi_head = model.roi_head
    roi_head.bbox_roi_extractor.out_channels = 16
    heads = roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(in_channels=16, fc_out_channels=16, num_classes=CLASSES)
        if 'conv_out_channels' in head:
            head.conv_out_channels = 16
    if roi_head.get('mask_head'):
        roi_head.mask_roi_extractor.out_channels = 16
        roi_head.mask_head.update(
            in_channels=16, conv_out_channels=16, num_convs=1, num_classes=CLASSES)


def small_config(kind, backbone=CONTAINER):
    """The config of a kind of :data:`CONFIGS`, with few channels and four classes."""
    cfg = load_config(CONFIGS[kind], None)
    model = cfg.model
    model.backbone = ConfigDict(backbone)
    if 'encoder' in model:
        _shrink_transformer(model)
        return cfg
    model.neck.update(in_channels=list(model.backbone.arch['embed_dims']), out_channels=16)
    if 'roi_head' in model:
        _shrink_regions(model)
    else:
        model.bbox_head.update(
            num_classes=CLASSES, in_channels=16, feat_channels=16, stacked_convs=1)
        model.test_cfg.update(nms_pre=200)
    return cfg


def spread(model):
    """Give everything but the backbone weights of which scores and boxes differ."""
    for name, weight in model.named_parameters():
        if not name.startswith('backbone') and weight.dim() > 1:
            weight.data.normal_(0, 0.7 / weight[0].numel()**0.5)
    return model


def small_detector(kind, backbone=CONTAINER):
    """A detector of :func:`small_config` in evaluation mode, with :func:`spread` weights."""
    torch.manual_seed(0)
    model = build_model(small_config(kind, backbone).model, 'mmdet')
    return spread(revert_sync_batchnorm(model)).eval()


def noise(batch, height, width):
    """Pictures (B, H, W, 3) of bright rectangles on noise, uint8."""
    generator = np.random.default_rng(height)
    images = generator.integers(0, 120, size=(batch, height, width, 3), dtype=np.uint8)
    for image in images:
        for _ in range(3):
            y, x = generator.integers(0, (height - 20, width - 20))
            image[y:y + 40, x:x + 30] = generator.integers(120, 256, size=3)
    return images
