"""CoTNet's COCO configs, in detectron2's words, against what the published runs printed."""
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

OFFICIAL = yaml.safe_load(Path(__file__).with_name('cotnet_detectron2.yaml').read_text())
RUNS = [(detector, name) for detector, runs in OFFICIAL['short_side_of_run'].items()
        for name in runs]


def _official(detector, name):
    """All published values of one run, under detectron2's names."""
    values = {**OFFICIAL['common'], **OFFICIAL['detectors'][detector], **OFFICIAL['source']}
    if values['MODEL.MASK_ON']:
        values.update(OFFICIAL['mask_head'])
    short_side = OFFICIAL['short_sides'][OFFICIAL['short_side_of_run'][detector][name]]
    values['INPUT.MIN_SIZE_TRAIN'] = short_side['sizes']
    values['INPUT.MIN_SIZE_TRAIN_SAMPLING'] = short_side['sampling']
    unused = () if detector.startswith('cascade') else ('CASCADE.', )
    unused += () if values['MODEL.MASK_ON'] else ('MASK_HEAD.', )
    return {key: value for key, value in values.items() if not key.startswith(unused)}


def _data(cfg):
    train, test = (loader.dataset.pipeline for loader in (cfg.train_dataloader,
                                                          cfg.test_dataloader))
    resize, = (step for step in train if step.type.endswith('Resize'))
    flip, = (step for step in train if step.type == 'RandomFlip')
    test_resize, = (step for step in test if step.type == 'Resize')
    sampling, scales = {'RandomResize': ('range', resize.get('scale')),
                        'RandomChoiceResize': ('choice', resize.get('scales'))}[resize.type]
    assert all(step.keep_ratio and step.backend == 'pillow' for step in (resize, test_resize))
    longest, = {scale[0] for scale in scales}
    return {
        'DATALOADER.ASPECT_RATIO_GROUPING':
            cfg.train_dataloader.batch_sampler.type == 'AspectRatioBatchSampler',
        'DATALOADER.FILTER_EMPTY_ANNOTATIONS':
            cfg.train_dataloader.dataset.filter_cfg.filter_empty_gt,
        'INPUT.CROP.ENABLED': any('Crop' in step.type for step in train),
        'INPUT.FORMAT': 'RGB' if cfg.model.data_preprocessor.bgr_to_rgb else 'BGR',
        'INPUT.MAX_SIZE_TEST': test_resize.scale[0],
        'INPUT.MAX_SIZE_TRAIN': longest,
        'INPUT.MIN_SIZE_TEST': test_resize.scale[1],
        'INPUT.MIN_SIZE_TRAIN': [scale[1] for scale in scales],
        'INPUT.MIN_SIZE_TRAIN_SAMPLING': sampling,
        'INPUT.RANDOM_FLIP': flip.get('direction', 'horizontal') if flip.prob == 0.5 else flip,
        'MODEL.PIXEL_MEAN': cfg.model.data_preprocessor.mean,
        'MODEL.PIXEL_STD': cfg.model.data_preprocessor.std,
    }


def _solver(cfg):
    warmup, steps = cfg.param_scheduler
    wrapper, optimizer = cfg.optim_wrapper, cfg.optim_wrapper.optimizer
    precise, = (hook for hook in cfg.custom_hooks if hook.type == 'PreciseBNHook')
    assert optimizer.type == 'SGD' and warmup.type == 'LinearLR'
    return {
        'SOLVER.AMP.ENABLED': wrapper.type != 'OptimWrapper',
        'SOLVER.BASE_LR': optimizer.lr,
        'SOLVER.CLIP_GRADIENTS.ENABLED': 'clip_grad' in wrapper,
        'SOLVER.GAMMA': steps.gamma,
        'SOLVER.IMS_PER_BATCH': cfg.auto_scale_lr.base_batch_size,
        'SOLVER.MAX_ITER': cfg.train_cfg.max_iters,
        'SOLVER.MOMENTUM': optimizer.momentum,
        'SOLVER.NESTEROV': optimizer.get('nesterov', False),
        'SOLVER.STEPS': steps.milestones,
        'SOLVER.WARMUP_FACTOR': warmup.start_factor,
        'SOLVER.WARMUP_ITERS': warmup.end,
        'SOLVER.WEIGHT_DECAY': optimizer.weight_decay,
        'SOLVER.WEIGHT_DECAY_NORM':
            optimizer.weight_decay * wrapper.paramwise_cfg.norm_decay_mult,
        'TEST.PRECISE_BN.ENABLED': precise.get('enabled', True),
        'TEST.PRECISE_BN.NUM_ITER': precise.num_iters,
    }


def _reg_weights(coder):
    assert coder.target_means == [0, 0, 0, 0]
    return [round(1 / std, 6) for std in coder.target_stds]


def _beta(loss):
    return 0.0 if loss.type == 'L1Loss' else loss.beta


def _rpn(model):
    head, train, test = model.rpn_head, model.train_cfg.rpn, model.test_cfg.rpn
    generator, proposals = head.anchor_generator, model.train_cfg.rpn_proposal
    assert train.sampler.type == 'RandomSampler' and not train.sampler.add_gt_as_proposals
    thresh, = {cfg.nms.iou_threshold for cfg in (proposals, test)}
    min_size, = {cfg.min_bbox_size for cfg in (proposals, test)}
    return {
        'MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS': [generator.ratios],
        'MODEL.ANCHOR_GENERATOR.OFFSET': generator.get('center_offset', 0.0),
        'MODEL.ANCHOR_GENERATOR.SIZES': [[scale * stride for scale in generator.scales]
                                         for stride in generator.strides],
        'MODEL.PROPOSAL_GENERATOR.MIN_SIZE': min_size,
        'MODEL.RPN.BATCH_SIZE_PER_IMAGE': train.sampler.num,
        'MODEL.RPN.BBOX_REG_LOSS_WEIGHT': head.loss_bbox.loss_weight,
        'MODEL.RPN.BBOX_REG_WEIGHTS': _reg_weights(head.bbox_coder),
        'MODEL.RPN.BOUNDARY_THRESH': train.allowed_border,
        'MODEL.RPN.IOU_THRESHOLDS': [train.assigner.neg_iou_thr, train.assigner.pos_iou_thr],
        'MODEL.RPN.LOSS_WEIGHT': head.loss_cls.loss_weight,
        'MODEL.RPN.NMS_THRESH': thresh,
        'MODEL.RPN.POSITIVE_FRACTION': train.sampler.pos_fraction,
        'MODEL.RPN.POST_NMS_TOPK_TEST': test.max_per_img,
        'MODEL.RPN.POST_NMS_TOPK_TRAIN': proposals.max_per_img,
        'MODEL.RPN.PRE_NMS_TOPK_TEST': test.nms_pre,
        'MODEL.RPN.PRE_NMS_TOPK_TRAIN': proposals.nms_pre,
        'MODEL.RPN.SMOOTH_L1_BETA': _beta(head.loss_bbox),
        'RPN.allow_low_quality_matches': train.assigner.match_low_quality,
        'RPN.lowest_quality': train.assigner.min_pos_iou,
    }


def _only(values):
    """The one value that all stages have."""
    first, *others = values
    assert all(value == first for value in others)
    return first


def _roi_heads(model):
    cascade = isinstance(model.roi_head.bbox_head, list)
    heads = model.roi_head.bbox_head if cascade else [model.roi_head.bbox_head]
    stages = model.train_cfg.rcnn if cascade else [model.train_cfg.rcnn]
    pooler, sampler, test = (model.roi_head.bbox_roi_extractor.roi_layer, stages[0].sampler,
                             model.test_cfg.rcnn)
    assert pooler.type == 'RoIAlign' and sampler.type == 'RandomSampler'
    assert all(stage.assigner.pos_iou_thr == stage.assigner.neg_iou_thr for stage in stages)
    convs, layers = {'Shared4Conv1FCBBoxHead': (4, 1)}[_only(head.type for head in heads)]
    values = {
        'BBOX_REG_WEIGHTS': [_reg_weights(head.bbox_coder) for head in heads],
        'IOU_THRESHOLDS': [stage.assigner.pos_iou_thr for stage in stages],
        'MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT': _only(h.loss_bbox.loss_weight for h in heads),
        'MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG': _only(h.reg_class_agnostic for h in heads),
        'MODEL.ROI_BOX_HEAD.CONV_DIM': _only(head.conv_out_channels for head in heads),
        'MODEL.ROI_BOX_HEAD.FC_DIM': _only(head.fc_out_channels for head in heads),
        'MODEL.ROI_BOX_HEAD.NORM': _only(head.norm_cfg.type for head in heads),
        'MODEL.ROI_BOX_HEAD.NUM_CONV': convs,
        'MODEL.ROI_BOX_HEAD.NUM_FC': layers,
        'MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION': pooler.output_size,
        'MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO': pooler.sampling_ratio,
        'MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA': _only(_beta(head.loss_bbox) for head in heads),
        'MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE': sampler.num,
        'MODEL.ROI_HEADS.NMS_THRESH_TEST': test.nms.iou_threshold,
        'MODEL.ROI_HEADS.NUM_CLASSES': _only(head.num_classes for head in heads),
        'MODEL.ROI_HEADS.POSITIVE_FRACTION': sampler.pos_fraction,
        'MODEL.ROI_HEADS.PROPOSAL_APPEND_GT': sampler.get('add_gt_as_proposals', True),
        'MODEL.ROI_HEADS.SCORE_THRESH_TEST': test.score_thr,
        'ROI_HEADS.allow_low_quality_matches': _only(
            stage.assigner.match_low_quality for stage in stages),
        'TEST.DETECTIONS_PER_IMAGE': test.max_per_img,
    }
    if cascade:
        assert model.roi_head.type == 'Detectron2CascadeRoIHead'
        values['CASCADE.loss_weights'] = model.roi_head.stage_loss_weights
        values['CASCADE.sampled_stages'] = sum(
            stage.sampler.type != 'PseudoSampler' for stage in stages)
    return values


def _mask_head(cfg):
    head, pooler = cfg.model.roi_head.mask_head, cfg.model.roi_head.mask_roi_extractor.roi_layer
    annotations, = (step for step in cfg.train_dataloader.dataset.pipeline
                    if step.type == 'LoadAnnotations')
    stages = cfg.model.train_cfg.rcnn
    init_default_scope('mmdet')
    built = MODELS.build(head)
    built.init_weights()
    return {
        'INPUT.MASK_FORMAT': 'bitmask' if annotations.poly2mask else 'polygon',
        'MASK_HEAD.first_std': round(built.conv_logits.weight.std().item(), 4),
        'MASK_HEAD.mask_size': _only(
            stage.mask_size for stage in (stages if isinstance(stages, list) else [stages])),
        'MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK': head.get('class_agnostic', False),
        'MODEL.ROI_MASK_HEAD.CONV_DIM': head.conv_out_channels,
        'MODEL.ROI_MASK_HEAD.NORM': head.norm_cfg.type,
        'MODEL.ROI_MASK_HEAD.NUM_CONV': head.num_convs,
        'MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION': pooler.output_size,
        'MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO': pooler.sampling_ratio,
    }


@pytest.mark.parametrize(('detector', 'name'), RUNS)
def test_config_has_every_value_of_the_published_run(repo_root, detector, name):
    cfg = Config.fromfile(repo_root / f'configs/{detector}/{name}_fpn_1x_coco.py')
    model = cfg.model
    ours = {
        **_data(cfg), **_solver(cfg), **_rpn(model), **_roi_heads(model),
        'MODEL.BACKBONE.FREEZE_AT': model.backbone.frozen_stages + 1,  # 1: the stem alone
        'MODEL.FPN.NORM': model.neck.norm_cfg.type,
        'MODEL.FPN.OUT_CHANNELS': model.neck.out_channels,
        'MODEL.MASK_ON': 'mask_head' in model.roi_head,
        'MODEL.RESNETS.NORM': model.backbone.norm_cfg.type,
    }
    if 'mask_head' in model.roi_head:
        ours.update(_mask_head(cfg))
    official = _official(detector, name)
    assert ours.keys() == official.keys()
    assert {key: value for key, value in ours.items() if value != official[key]} == {}


def test_there_are_24_published_runs():
    assert len(RUNS) == 24
