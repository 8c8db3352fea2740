"""Small detectors with random weights whose scores are spread, and photographs for them."""
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

CLASSES = ('square', 'bar <b>')
ARCH = dict(embed_dims=(8, 16, 16, 16), depths=(1, 1, 1, 2), mlp_ratios=(2, 2, 2, 2),
            patch_sizes=(4, 2, 2, 2), num_heads=(None, None, None, 2),
            static=dict(kind='depthwise', kernel_size=5))
CONFIGS = {
    'retinanet': ('retinanet/container_light_fpn_1x_coco.py', {
        'neck.in_channels': [8, 16, 16, 16], 'neck.out_channels': 16,
        'bbox_head.in_channels': 16, 'bbox_head.feat_channels': 16, 'bbox_head.stacked_convs': 1,
        'test_cfg.score_thr': 0.}),
    'smca': ('detr/smca_detr_container_light_50e_coco.py', {
        'neck.in_channels': [16], 'neck.out_channels': 16, 'num_queries': 10,
        'test_cfg.max_per_img': 10, 'positional_encoding.num_feats': 8, 'bbox_head.embed_dims': 16,
        **{f'{part}.layer_cfg.{name}.embed_dims': 16 for part in ('encoder', 'decoder')
           for name in ('self_attn_cfg', 'ffn_cfg')},
        'decoder.layer_cfg.cross_attn_cfg.embed_dims': 16, 'encoder.num_layers': 1,
        'decoder.num_layers': 2})}


def make_config(root, name):
    """The package's config of a detector, made small."""
    path, changes = CONFIGS[name]
    cfg = Config.fromfile(root / 'configs' / path)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    cfg.model.backbone.update(arch=ARCH, type='Container', init_cfg=None)
    cfg.model.bbox_head.num_classes = len(CLASSES)
    dataset = cfg.test_dataloader.dataset
    dataset.metainfo = dict(classes=CLASSES)
    for step in dataset.pipeline:
        if step['type'] == 'Resize':
            step['scale'] = (160, 96)
    return cfg


def build_model(cfg):
    """The model of such a config, in evaluation mode."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    model.init_weights()
    head = model.bbox_head
    if hasattr(model, 'decoder'):
        # DETR starts with the same box for all queries.
        nn.init.normal_(model.query_embedding.weight, std=3)
        nn.init.normal_(head.fc_reg.weight)
    classifier = head.fc_cls if hasattr(model, 'decoder') else head.retina_cls
    nn.init.normal_(classifier.weight, std=0.5)
    nn.init.zeros_(classifier.bias)
    for key, parameter in model.backbone.named_parameters():
        if 'mix_logit' in key:
            parameter.data.normal_()
    model.dataset_meta = dict(classes=CLASSES, palette=None)
    return model


def scene(height=90, width=150, seed=0):
    """Noise with a bright rectangle in its upper left quarter, (height, width, 3) in RGB."""
    picture = np.random.default_rng(seed).integers(0, 90, (height, width, 3), dtype=np.uint8)
    picture[10:height // 2, 10:width // 2] = (250, 60, 60)
    return picture
