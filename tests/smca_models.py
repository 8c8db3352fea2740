"""SMCA-DETR as the tests build it: its feature map is given in place of an image."""
import copy

import torch
from golden_rule import Fixture
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import mmcontainer.detectors  # noqa: F401  registers SMCADETR
from mmcontainer.checkpoints import convert


@MODELS.register_module(force=True)
class GivenFeatures(BaseModule):
    """Backbone whose images already are its feature maps: one, or several."""

    def forward(self, x):
        return (x, ) if isinstance(x, torch.Tensor) else x


ASSIGNER = dict(type='HungarianAssigner', match_costs=[
    dict(type='FocalLossCost', weight=2., eps=1e-8),
    dict(type='BBoxL1Cost', weight=5., box_format='xywh'),
    dict(type='IoUCost', iou_mode='giou', weight=2.)])
HEAD = dict(
    type='SMCAHead', sync_cls_avg_factor=True,
    loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2., alpha=0.25, loss_weight=2.),
    loss_bbox=dict(type='L1Loss', loss_weight=5.),
    loss_iou=dict(type='GIoULoss', loss_weight=2.))


def build_detector(channels=64, num_classes=4, num_queries=20, layers=(1, 2), ffn=64,
                   dynamic_scale='type3', dropout=0., embed_dims=256, form='auto', num_cp=-1,
                   **kwargs):
    """SMCADETR on feature maps of so many channels."""
    init_default_scope('mmdet')
    attention = dict(embed_dims=embed_dims, num_heads=8, dropout=dropout)
    ffn_cfg = dict(embed_dims=embed_dims, feedforward_channels=ffn, num_fcs=2, ffn_drop=dropout,
                   act_cfg=dict(type='ReLU', inplace=True))
    model = dict(
        type='SMCADETR', num_queries=num_queries,
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=dict(type='GivenFeatures'),
        neck=dict(type='ChannelMapper', in_channels=[channels], kernel_size=1, num_outs=1,
                  out_channels=embed_dims, act_cfg=None, norm_cfg=None, init_cfg=None),
        encoder=dict(num_layers=layers[0], num_cp=num_cp,
                     layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn_cfg)),
        decoder=dict(num_layers=layers[1], return_intermediate=True, layer_cfg=dict(
            dynamic_scale=dynamic_scale, attention_form=form, self_attn_cfg=attention,
            cross_attn_cfg=attention, ffn_cfg=ffn_cfg)),
        positional_encoding=dict(num_feats=embed_dims // 2, normalize=True),
        bbox_head=dict(HEAD, num_classes=num_classes, embed_dims=embed_dims),
        train_cfg=dict(assigner=ASSIGNER), test_cfg=dict(max_per_img=num_queries))
    model.update(kwargs)
    return MODELS.build(copy.deepcopy(model))


def build_multi_scale(channels=(16, 32, 64), layers=(2, 2), ffn=64, dropout=0., embed_dims=256,
                      num_cp=-1, kernel_size=7, shared_exchange=True, **kwargs):
    """MultiScaleSMCADETR on three feature maps of so many channels."""
    layer = dict(
        embed_dims=embed_dims, kernel_size=kernel_size, shared_exchange=shared_exchange,
        dropout=dropout, ffn_cfg=dict(
            embed_dims=embed_dims, feedforward_channels=ffn, num_fcs=2, ffn_drop=dropout,
            act_cfg=dict(type='ReLU', inplace=True)))
    return build_detector(
        type='MultiScaleSMCADETR', layers=layers, ffn=ffn, dropout=dropout, embed_dims=embed_dims,
        neck=dict(type='ChannelMapper', in_channels=list(channels), kernel_size=1, num_outs=4,
                  out_channels=embed_dims, act_cfg=None, norm_cfg=None, init_cfg=None),
        encoder=dict(num_layers=layers[0], num_cp=num_cp, layer_cfg=layer), **kwargs)


def make_samples(sizes, padded, boxes=None, labels=None):
    """Data samples of images (height, width), padded to one size; boxes (xyxy) in pixels."""
    samples = []
    for i, size in enumerate(sizes):
        size = tuple(int(value) for value in size)
        sample = DetDataSample(metainfo=dict(
            img_shape=size, ori_shape=size, scale_factor=(1., 1.),
            batch_input_shape=tuple(int(value) for value in padded)))
        if boxes is not None:
            sample.gt_instances = InstanceData(
                bboxes=boxes[i], labels=torch.as_tensor(labels[i]).long())
        samples.append(sample)
    return samples


def load_official(model, fixture, source):
    """Load the official weights of a fixture, with all rows of the classifier."""
    state_dict = dict(fixture.state_dict)
    classifier = {key: state_dict.pop(key) for key in ('class_embed.weight', 'class_embed.bias')}
    state_dict = convert(state_dict, source)
    for key, value in classifier.items():  # the converter does not keep all rows
        state_dict[key.replace('class_embed', 'bbox_head.fc_cls')] = value
    model.load_state_dict(state_dict)


def run_fixture(name, form='auto', dtype=torch.float64, device='cpu', **kwargs):
    """Run SMCA-DETR with the weights and the input of a fixture of the official code.

    Args:
        name (str): Of the fixture in tests/golden.
        form (str): Of the modulated attention.
        dtype (torch.dtype): Of weights and input.
        device (torch.device): Where it runs.
        kwargs: Of :func:`build_detector`.

    Returns:
        tuple[Fixture, dict[str, Tensor]]: The fixture, and what the model gave, by its keys.
    """
    fixture = Fixture(name)
    is_tiny = 'tiny' in name
    sizes = {} if is_tiny else dict(
        channels=2048, num_classes=92, num_queries=300, layers=(6, 6), ffn=2048)
    model = build_detector(dynamic_scale=name.split('_')[1 + is_tiny], form=form, **sizes, **kwargs)
    load_official(model, fixture, 'smca-detr')
    model = model.to(device, dtype).eval()
    samples = make_samples(fixture['image_sizes_hw'], fixture['padded_hw'])
    mask = fixture['mask'].to(device)
    with torch.no_grad():
        feats = model.extract_feat(fixture.model_input().to(device, dtype))
        encoder_inputs, decoder_inputs = model.pre_transformer(feats, samples)
        memory = model.forward_encoder(**encoder_inputs)['memory']
        queries, _ = model.pre_decoder(memory)
        decoded = model.forward_decoder(**{**decoder_inputs, **queries})
        scores, boxes = model.bbox_head(**decoded)
    found = dict(
        pos=decoder_inputs['memory_pos'].transpose(1, 2).reshape(feats[0].shape), src=feats[0],
        memory_valid=memory[~mask.flatten(1)], hs=decoded['hidden_states'],
        hs_last=decoded['hidden_states'][-1], points=decoded['references'],
        hs_last_sum=decoded['hidden_states'][-1],
        outputs_class=scores, outputs_coord=boxes, outputs_coord_last=boxes[-1],
        **{f'hs{i}': state for i, state in enumerate(decoded['hidden_states'])})
    assert torch.equal(decoder_inputs['memory_mask'].view_as(mask), mask)
    return fixture, {key: value.cpu() for key, value in found.items()}
