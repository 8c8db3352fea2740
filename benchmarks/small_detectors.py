"""Small detectors of every kind that can be exported: our recipes with few channels."""
from mmengine.config import Config, ConfigDict

from mmcontainer.cli.configs import load_config

#: {kind: config it is made of}
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


def _shrink_transformer(model, width: int) -> None:
    stage = model.backbone.get('out_indices', (3, ))[-1]
    stages = (stage, )
    if model.type == 'MultiScaleSMCADETR':
        stages = (stage - 2, stage - 1, stage)
        model.encoder.layer_cfg.update(embed_dims=width)
        if stage != 3:
            model.reference_stride = None  # levels have other strides than in the recipe
    model.backbone.out_indices = stages
    model.neck.update(in_channels=[model.backbone.arch['embed_dims'][i] for i in stages],
                      out_channels=width)
    if model.type == 'DeformableDETR':
        model.neck.norm_cfg = dict(type='GN', num_groups=4)
    model.update(num_queries=30, test_cfg=dict(max_per_img=25))
    model.positional_encoding.num_feats = width // 2
    # A layer of four groups of keys is as much to export as two of one.
    decoder_layers = 1 if model.type == 'MultiScaleSMCADETR' else 2
    for part, layers in ((model.encoder, 1), (model.decoder, decoder_layers)):
        part.num_layers = layers
        part.layer_cfg.ffn_cfg.update(embed_dims=width, feedforward_channels=width // 2)
        for name in ('self_attn_cfg', 'cross_attn_cfg'):
            if name in part.layer_cfg:
                part.layer_cfg[name].update(embed_dims=width)
    model.bbox_head.update(num_classes=CLASSES, embed_dims=width)


def _shrink_regions(model, width: int) -> None:
    model.rpn_head.update(in_channels=width, feat_channels=width)
    # Few regions as well: with few channels, most of the time goes into cutting them out.
    for proposals in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        proposals.update(nms_pre=100, max_per_img=60)
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 64
    roi_head = model.roi_head
    roi_head.bbox_roi_extractor.out_channels = width
    heads = roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(in_channels=width, fc_out_channels=width, num_classes=CLASSES)
        if 'conv_out_channels' in head:
            head.conv_out_channels = width
    if roi_head.get('mask_head'):
        roi_head.mask_roi_extractor.out_channels = width
        roi_head.mask_head.update(
            in_channels=width, conv_out_channels=width, num_convs=1, num_classes=CLASSES)


def small_config(kind: str, backbone: dict = CONTAINER, width: int = 16) -> Config:
    """The config of a kind of :data:`CONFIGS`, with few channels and four classes.

    Args:
        kind (str): One of :data:`CONFIGS`.
        backbone (dict): Config of the backbone. Of its ``out_indices``, by default all, the last
            one counts for transformers.
        width (int): Channels of neck and heads; transformers have twice as many.

    Returns:
        Config: All else is as in the recipe.
    """
    cfg = load_config(CONFIGS[kind], None)
    model = cfg.model
    model.backbone = ConfigDict(backbone)
    if 'encoder' in model:
        _shrink_transformer(model, 2 * width)
        return cfg
    model.neck.update(in_channels=list(model.backbone.arch['embed_dims']), out_channels=width)
    if 'roi_head' in model:
        _shrink_regions(model, width)
    else:
        model.bbox_head.update(
            num_classes=CLASSES, in_channels=width, feat_channels=width, stacked_convs=1)
        model.test_cfg.update(nms_pre=200)
    return cfg
