"""SMCA-DETR against numbers of the official code."""
import numpy as np
import pytest
import torch
from golden_rule import GOLDEN
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.structures import InstanceData
from smca_models import ASSIGNER, HEAD, build_detector, make_samples, run_fixture

TINY = [f'smca_tiny_type{i}__s1__7x9' for i in (1, 2, 3, 4)]


def _names(fixture):
    names = {key.split('.')[0] for key in fixture.values.files}
    return names - {'seed', 'gain', 'weights_sha256', 'input_sha256', 'input_shape',
                    'image_sizes_hw', 'padded_hw', 'mask', 'hs_last_sum'}


@pytest.mark.parametrize(('name', 'form'), [
    *((name, 'auto') for name in TINY), (TINY[2], 'separable'), (TINY[2], 'explicit'),
    pytest.param('smca_type3__s1__25x34', 'auto', marks=pytest.mark.slow)])
def test_equal_to_the_official_model(name, form):
    fixture, found = run_fixture(name, form)
    for key in _names(fixture):
        # The official position is computed in float32.
        tolerance = 1e-5 if key == 'pos' else 1e-6
        assert fixture.relative_error(key, found[key]) < tolerance, key


@pytest.mark.parametrize('name', TINY)
def test_float32_is_close(name):
    fixture, found = run_fixture(name, dtype=torch.float32)
    for key in _names(fixture):
        assert fixture.relative_error(key, found[key]) < 1e-4, key


def test_right_reference_scale_for_any_stride():
    """A map of 7 x 9 cells for images of half the size: cells are 16 pixels wide, not 32."""
    model = build_detector(reference_stride=None)
    feats = torch.randn(2, 256, 7, 9)
    at_32 = model.pre_transformer((feats, ), make_samples([(224, 288), (200, 150)], (224, 288)))
    at_16 = model.pre_transformer((feats, ), make_samples([(112, 144), (100, 75)], (112, 144)))
    assert torch.equal(at_32[1]['cells'], torch.tensor([[9., 7.], [150 / 32, 200 / 32]]))
    assert torch.equal(at_16[1]['cells'], at_32[1]['cells'])
    model.reference_stride = 32  # the official rule places them at half the distance
    wrong = model.pre_transformer((feats, ), make_samples([(112, 144), (100, 75)], (112, 144)))
    assert torch.equal(wrong[1]['cells'], at_32[1]['cells'] / 2)


# ---------------------------------------------------------------- matching, losses, detections

def _criterion(letter):
    values = np.load(GOLDEN / f'smca_criterion__{letter}.npz')
    values = {key: torch.from_numpy(np.asarray(values[key])) for key in values.files}
    head = MODELS.build(dict(
        HEAD, num_classes=92, train_cfg=dict(assigner=ASSIGNER), test_cfg=dict(max_per_img=20)))
    return values, head.double()


def _ground_truth(values, size):
    scale = torch.tensor([size[1], size[0]] * 2).double()
    return [InstanceData(labels=values[f'target{i}.labels'],
                         bboxes=bbox_cxcywh_to_xyxy(values[f'target{i}.boxes']) * scale)
            for i in range(2)]


@pytest.mark.parametrize('letter', ['a', 'b'])
def test_losses_and_gradients_are_the_official_ones(letter):
    values, head = _criterion(letter)
    size = (480, 640)
    logits, boxes = (values[key].requires_grad_() for key in ('logits', 'boxes'))
    losses = head.loss_by_feat(logits, boxes, _ground_truth(values, size),
                               [dict(img_shape=size)] * 2)
    total = sum(loss.sum() for loss in losses.values())
    # MMDetection adds 1.2e-7 to the number of boxes it divides by.
    torch.testing.assert_close(total, values['total'], rtol=1e-7, atol=0)
    gradients = torch.autograd.grad(total, (logits, boxes))
    for found, key in zip(gradients, ('grad_logits', 'grad_boxes')):
        torch.testing.assert_close(found, values[key], rtol=1e-7, atol=1e-9)
    for name, official in dict(loss_cls='loss_ce', loss_bbox='loss_bbox',
                               loss_iou='loss_giou').items():
        for key, suffix in ((name, ''), (f'd0.{name}', '_0'), (f'd1.{name}', '_1')):
            expected = values[f'loss.{official}{suffix}'] * HEAD[name]['loss_weight']
            torch.testing.assert_close(losses.pop(key).sum(), expected, rtol=1e-7, atol=1e-12)
    assert not losses


@pytest.mark.parametrize('letter', ['a', 'b'])
def test_same_pairs_are_matched(letter):
    values, head = _criterion(letter)
    size = (480, 640)
    scale = torch.tensor([size[1], size[0]] * 2).double()
    for layer in range(3):
        for image, truth in enumerate(_ground_truth(values, size)):
            predicted = InstanceData(
                scores=values['logits'][layer, image],
                bboxes=bbox_cxcywh_to_xyxy(values['boxes'][layer, image]) * scale)
            matched = head.assigner.assign(predicted, truth, img_meta=dict(img_shape=size)).gt_inds
            pairs = f'match.layer{layer}.img{image}'
            expected = torch.zeros(20, dtype=torch.long)
            expected[values[f'{pairs}.query']] = values[f'{pairs}.target'] + 1
            assert torch.equal(matched, expected)


@pytest.mark.parametrize('letter', ['a', 'b'])
def test_detections_are_the_official_ones_within_the_image(letter):
    values, head = _criterion(letter)
    metas = [dict(img_shape=tuple(size.tolist()), scale_factor=(1., 1.))
             for size in values['post.sizes_hw']]
    found = head.predict_by_feat(values['logits'], values['boxes'], metas)
    for i, (result, meta) in enumerate(zip(found, metas)):
        torch.testing.assert_close(result.scores, values[f'post.img{i}.scores'])
        assert torch.equal(result.labels, values[f'post.img{i}.labels'])
        height, width = meta['img_shape']
        expected = values[f'post.img{i}.boxes'].clone()
        expected[:, 0::2].clamp_(0, width)
        expected[:, 1::2].clamp_(0, height)
        torch.testing.assert_close(result.bboxes, expected)
