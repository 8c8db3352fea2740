"""SMCA-DETR's official detectors: names, the classifier's rows, and what cannot be converted."""
import pytest
import torch
from golden_rule import make_state_dict, read_keys
from mmdet.registry import MODELS
from smca_models import build_detector, build_multi_scale

from mmcontainer.checkpoints import (
    SOURCES,
    KeyMismatchError,
    convert,
    convert_back,
    detect_source,
)
from mmcontainer.checkpoints.smca_detr import encoder_options


def _backbone():
    """ResNet-50 with frozen norms, as torchvision names it: no counters."""
    state_dict = MODELS.build(dict(type='mmdet.ResNet', depth=50)).state_dict()
    return {f'backbone.0.body.{key}': value for key, value in state_dict.items()
            if not key.endswith('num_batches_tracked')}


@pytest.fixture(scope='module')
def official():
    return {**_backbone(), **make_state_dict('smca_type3', 1, 1.)}


@pytest.mark.parametrize('wrap', [dict, lambda s: dict(model=s, epoch=49),
                                  lambda s: {f'module.{k}': v for k, v in s.items()}])
def test_a_whole_detector_fits(official, wrap):
    ours = convert(wrap(official))
    model = build_detector(2048, 80, 300, layers=(6, 6), ffn=2048)
    model.backbone = MODELS.build(dict(type='mmdet.ResNet', depth=50))
    model.load_state_dict(ours)  # strict
    assert detect_source(official) == 'smca-detr'


def test_rows_of_the_classifier_follow_mmdetections_classes(official):
    from mmdet.datasets import CocoDataset
    ours = convert(official, 'smca-detr')
    classes = CocoDataset.METAINFO['classes']
    for name, category in (('person', 1), ('stop sign', 13), ('backpack', 27), ('toothbrush', 90)):
        row = classes.index(name)
        for kind in ('weight', 'bias'):
            assert torch.equal(ours[f'bbox_head.fc_cls.{kind}'][row],
                               official[f'class_embed.{kind}'][category])
    assert len(ours['bbox_head.fc_cls.weight']) == len(classes) == 80


def test_back_to_the_official_names(official):
    back = convert_back(convert(official), 'smca-detr')
    assert set(back) == set(official)
    for key, value in official.items():
        if key.startswith('class_embed'):
            score = back['class_embed.bias'][12].sigmoid()  # of no class: never detected
            assert back[key].shape == value.shape and score == 0
            assert torch.equal(back[key][1:12], value[1:12])
        else:
            assert torch.equal(back[key], value)


def test_other_numbers_of_classes_stay():
    tiny = make_state_dict('smca_tiny_type2', 1, 1.)
    assert read_keys('smca_tiny_type2')[0][0] in tiny
    assert len(convert(tiny)['bbox_head.fc_cls.weight']) == 4


def test_what_has_no_place_is_named(official):
    with pytest.raises(KeyMismatchError, match='transformer.level_embed'):
        convert({**official, 'transformer.level_embed': torch.zeros(4, 256)}, 'smca-detr')
    detr = {key: value for key, value in official.items() if '.point' not in key}
    with pytest.raises(KeyMismatchError, match='a DETR, not an SMCA-DETR'):
        convert(detr)


# ---------------------------------------------------------------- the multi-scale detector

@pytest.fixture(scope='module')
def multi_scale():
    return {**_backbone(), **make_state_dict('msmca44', 1, 1.)}


def test_a_whole_multi_scale_detector_fits(multi_scale):
    assert detect_source(multi_scale) == 'multi-scale-smca-detr'
    model = build_multi_scale((512, 1024, 2048), num_classes=80, num_queries=300, layers=(6, 6),
                              ffn=1024)
    parameters = sum(p.numel() for p in model.parameters())
    # The official one has 92 rows in its classifier.
    assert parameters == 17_531_002 - 12 * 257
    model.backbone = MODELS.build(dict(type='mmdet.ResNet', depth=50))
    ours = convert(multi_scale)
    model.load_state_dict(ours)  # strict
    back = convert_back(ours, 'multi-scale-smca-detr')
    assert set(back) == set(multi_scale)
    for key, value in multi_scale.items():
        if not key.startswith('class_embed'):
            assert torch.equal(back[key], value), key


@pytest.mark.parametrize(('name', 'options'), [
    ('msmca44_tiny', dict(kernel_size=7, shared_exchange=True)),
    ('msmca_cross_tiny', dict(kernel_size=5, shared_exchange=False))])
def test_both_encoders_are_told_apart(name, options):
    official = make_state_dict(name, 1, 1.)
    ours = convert(official)
    assert encoder_options(ours) == options
    table = SOURCES['multi-scale-smca-detr']
    expected = ('model.encoder.layer_cfg of these weights: '
                + ', '.join(f'{key}={value}' for key, value in options.items()))
    assert table.describe(official)[-1] == table.describe(ours, reverse=True)[-1] == expected
    build_multi_scale(**options).load_state_dict(ours)
    assert list(convert_back(ours, 'multi-scale-smca-detr')) == list(official)


def test_a_mixture_of_both_encoders_is_refused():
    ours, other = (convert(make_state_dict(name, 1, 1.))
                   for name in ('msmca44_tiny', 'msmca_cross_tiny'))
    with pytest.raises(KeyMismatchError, match=r'kernels of \[5, 7\] cells'):
        encoder_options({**other, **ours})
    with pytest.raises(KeyMismatchError, match='kernels of no cells.*missing'):
        encoder_options({})
