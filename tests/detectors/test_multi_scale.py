"""The multi-scale SMCA-DETR beside what the official code can tell: sizes, batches, mistakes."""
import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from smca_models import build_multi_scale, make_samples

from mmcontainer.detectors import MultiScaleSMCAEncoderLayer
from mmcontainer.detectors.multi_scale_smca_detr import coarser_mask
from mmcontainer.detectors.multi_scale_smca_layers import join_levels, split_levels

CONFIG = Path(__file__).resolve().parents[2] / (
    'configs/detr/multi_scale_smca_detr_container_light_50e_coco.py')
ARCH = dict(embed_dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), mlp_ratios=(1, 1, 1, 1),
            patch_sizes=(4, 2, 2, 2), num_heads=(None, None, None, 2),
            static=dict(kind='depthwise', kernel_size=5))


def give_images(model, height, width, batch=2, channels=(16, 32, 64)):
    """Feature maps as ResNet gives them, whose sides are rounded up."""
    torch.manual_seed(1)
    dtype = next(model.parameters()).dtype
    return tuple(torch.randn(batch, number, -(-height // stride), -(-width // stride), dtype=dtype)
                 for number, stride in zip(channels, (8, 16, 32)))


def small_container():
    """The config's detector with a small backbone and few queries, not padded."""
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.update(type='Container', arch=ARCH, init_cfg=None, drop_path_rate=0.)
    cfg.model.neck.in_channels = list(ARCH['embed_dims'][1:])
    cfg.model.update(num_queries=12, test_cfg=dict(max_per_img=20))
    cfg.model.encoder.num_layers = cfg.model.decoder.num_layers = 2
    cfg.model.data_preprocessor.pad_size_divisor = 1
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def layer_by_formula(layer, maps, positions):
    """One encoder layer written out, section 3 of the official code's description."""
    def depthwise(conv, x):
        return F.conv2d(x, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2,
                        groups=x.shape[1])

    def channel_norm(norm, x):
        return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    levels = ('8', '16', '32', '64')
    b = [depthwise(layer.level_convs[level], layer.conv_in(x + p))
         for level, x, p in zip(levels, maps, positions)]
    shared = 'shared' in layer.down_convs
    out = []
    for i, m in enumerate(b):
        height, width = m.shape[-2:]
        if i > 0:  # every second cell of a convolution at full resolution
            conv = layer.down_convs['shared' if shared else levels[i - 1]]
            m = m + depthwise(conv, b[i - 1])[..., ::2, ::2][..., :height, :width]
        if i < 3:
            conv = layer.up_convs['shared' if shared else levels[i + 1]]
            m = m + F.interpolate(depthwise(conv, b[i + 1]), (height, width), mode='bilinear',
                                  align_corners=True)
        t = channel_norm(layer.norms[0], maps[i] + layer.conv_out(m))
        hidden = layer.ffn.layers[0](t.permute(0, 2, 3, 1))
        out.append(channel_norm(layer.norms[1], t + layer.ffn.layers[1](hidden).permute(
            0, 3, 1, 2)))
    return out


@pytest.mark.parametrize('options', [dict(), dict(kernel_size=5, shared_exchange=False)])
@pytest.mark.parametrize('sizes', [
    [(8, 12), (4, 6), (2, 3), (1, 2)], [(7, 9), (4, 5), (2, 3), (1, 2)],
    [(7, 9), (3, 4), (1, 2), (1, 1)], [(5, 1), (2, 1), (1, 1), (1, 1)]])
def test_encoder_layer_is_the_formula_at_any_size(options, sizes):
    """Sides of half the size rounded up, as of ResNet, or down, as of Container."""
    torch.manual_seed(0)
    layer = MultiScaleSMCAEncoderLayer(
        dict(embed_dims=16, feedforward_channels=8, num_fcs=2), 16, **options).double().eval()
    maps, positions = ([torch.randn(2, 16, *size).double() for size in sizes] for _ in range(2))
    found = layer(join_levels(maps), join_levels(positions), grid_sizes=sizes)
    for part, expected in zip(split_levels(found, sizes), layer_by_formula(layer, maps, positions)):
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize('size', [(32, 32), (97, 75), (100, 140), (63, 129)])
def test_any_image_size_trains_and_predicts(size):
    model = small_container()
    sizes = [size, (size[0] - 5, size[1] - 10)]
    boxes = torch.tensor([[2., 3., 20., 21.], [1., 1., 15., 9.]])
    images = torch.randn(2, 3, *size)
    samples = make_samples(sizes, size, [boxes, boxes[:0]], [[0, 2], []])
    losses = model.train().loss(images, samples)
    total = sum(loss.sum() for loss in losses.values())
    total.backward()
    assert total.isfinite()
    unused = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    with torch.no_grad():
        results = model.eval().predict(images, samples)
    assert [len(result.pred_instances) for result in results] == [20, 20]
    assert all(result.pred_instances.bboxes.isfinite().all() for result in results)


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other():
    """The released code takes the weights of groups from the first image for all."""
    model = build_multi_scale().double().eval()
    feats = give_images(model, 96, 128)
    samples = make_samples([(96, 128), (70, 90)], (96, 128))
    batch = model.forward_transformer(model.extract_feat(feats), samples)['hidden_states']
    for i in range(2):
        alone = model.forward_transformer(
            model.extract_feat(tuple(feat[i:i + 1] for feat in feats)), samples[i:i + 1])
        torch.testing.assert_close(batch[:, i:i + 1], alone['hidden_states'], rtol=0, atol=1e-11)


@torch.no_grad()
def test_nothing_after_the_encoder_sees_padding():
    model = build_multi_scale().double().eval()
    feats = model.extract_feat(give_images(model, 96, 128))
    of_encoder, of_decoder = model.pre_transformer(
        feats, make_samples([(96, 128), (70, 90)], (96, 128)))
    memory = model.forward_encoder(**of_encoder)['memory']
    mask = of_decoder['memory_mask']
    assert mask[1].any() and not mask[0].any()
    queries, _ = model.pre_decoder(memory)
    other = memory.masked_fill(mask[..., None], 30.)
    outs = [model.forward_decoder(**{**of_decoder, **queries, 'memory': tokens})['hidden_states']
            for tokens in (memory, other)]
    torch.testing.assert_close(*outs, rtol=0, atol=1e-11)


@torch.no_grad()
def test_without_padding_there_is_no_mask_and_the_result_is_the_same():
    model = build_multi_scale().double().eval()
    feats = model.extract_feat(give_images(model, 96, 128, batch=1))
    of_encoder, of_decoder = model.pre_transformer(feats, make_samples([(96, 128)], (96, 128)))
    assert of_decoder['memory_mask'] is None
    memory = model.forward_encoder(**of_encoder)['memory']
    queries, _ = model.pre_decoder(memory)
    mask = torch.zeros(memory.shape[:2], dtype=torch.bool)
    outs = [model.forward_decoder(**{**of_decoder, **queries, 'memory_mask': one})['hidden_states']
            for one in (None, mask)]
    torch.testing.assert_close(*outs, rtol=0, atol=1e-11)


@pytest.mark.parametrize(('old', 'new'), [((7, 9), (4, 5)), ((8, 12), (4, 6)), ((1, 3), (1, 2))])
def test_mask_of_a_level_is_the_nearest_of_the_one_before(old, new):
    torch.manual_seed(0)
    mask = torch.rand(3, *old) > 0.5
    expected = F.interpolate(mask[:, None].float(), new)[:, 0].bool()
    assert torch.equal(coarser_mask(mask, new), expected)


def test_recomputed_layers_give_the_same_gradients():
    plain, recomputing = build_multi_scale(), build_multi_scale(num_cp=2)
    recomputing.load_state_dict(plain.state_dict())
    feats = give_images(plain, 64, 96)
    truth = [torch.tensor([[2., 3., 20., 21.]])] * 2
    gradients = []
    for model in (plain, recomputing):
        samples = make_samples([(64, 96), (60, 80)], (64, 96), truth, [[0], [1]])
        losses = model.train().loss(feats, copy.deepcopy(samples))
        sum(loss.sum() for loss in losses.values()).backward()
        gradients.append({key: p.grad for key, p in model.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_right_reference_for_any_stride():
    """Maps of the same size for images half as large: cells are half as wide."""
    model = build_multi_scale(reference_stride=None)
    feats = model.extract_feat(give_images(model, 192, 256))
    whole, half = (model.pre_transformer(feats, make_samples(sizes, sizes[0]))[1]['cells']
                   for sizes in ([(192, 256), (100, 80)], [(96, 128), (50, 40)]))
    assert whole.shape == (4, 2, 2) and torch.equal(whole, half)
    model.reference_stride = 32
    official = model.pre_transformer(feats, make_samples([(192, 256), (100, 80)], (192, 256)))[1]
    torch.testing.assert_close(official['cells'], whole)
    assert official['cells'][:, 1].tolist() == [[5., 6.25], [5., 6.25], [2.5, 3.125],
                                                [1.25, 1.5625]]


def test_points_and_weights_stay_exact_under_autocast():
    model = build_multi_scale().eval()
    layer = model.decoder.layers[0]
    query, reference = torch.randn(1, 20, 256), 40 * torch.rand(4, 1, 20, 2)
    exact = layer.locate(layer.normalize_query(query, query), reference)
    with torch.autocast('cpu', torch.bfloat16):
        found = layer.locate(layer.normalize_query(query, query), reference)
    assert all(map(torch.equal, found, exact))
    assert [tuple(t.shape) for t in found] == [(4, 1, 8, 20, 2), (4, 1, 8, 20, 2), (1, 20, 4)]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match='kernel_size must be odd, got 4'):
        build_multi_scale(kernel_size=4)
    with pytest.raises(ValueError, match='max_per_img=81 is more than 20 queries and 4 classes'):
        build_multi_scale(test_cfg=dict(max_per_img=81))
    model = build_multi_scale()
    samples = make_samples([(96, 128)] * 2, (96, 128))
    feats = model.extract_feat(give_images(model, 96, 128))
    with pytest.raises(ValueError, match='needs 4 levels of strides 8, 16, 32, 64, .* gives 3'):
        model.pre_transformer(feats[:3], samples)
    message = 'found 12 x 16 and 3 x 4 (height x width)'
    with pytest.raises(ValueError, match=re.escape(message)):
        model.pre_transformer((feats[0], feats[2], feats[2], feats[3]), samples)


def test_losses_use_all_layers_and_scale_with_objects():
    """Six terms of two layers, each finite; without objects only classification is left."""
    model = build_multi_scale()
    feats = give_images(model, 64, 96)
    samples = make_samples([(64, 96)] * 2, (64, 96))
    for sample in samples:
        sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    losses = model.loss(feats, samples)
    assert set(losses) == {f'{prefix}{name}' for prefix in ('', 'd0.') for name in (
        'loss_cls', 'loss_bbox', 'loss_iou')}
    assert losses['loss_bbox'] == losses['d0.loss_iou'] == 0 and losses['loss_cls'] > 0
