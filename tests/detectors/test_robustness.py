"""DETR, Deformable DETR and SMCA-DETR where batches are awkward: empty, padded, in few bits."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from smca_models import ASSIGNER, HEAD, build_detector, make_samples
from torch_versions import float16, needs_compile

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'detr'
CHANNELS, STRIDE = 8, 32
DETECTORS = ('detr', 'deformable_detr', 'smca_detr')


def _build(detector, num_queries=12, **encoder):
    """A small model of a config, on feature maps in place of images."""
    cfg = Config.fromfile(CONFIGS / f'{detector}_container_light_50e_coco.py').model
    cfg.backbone = dict(type='GivenFeatures')
    cfg.num_queries = cfg.test_cfg.max_per_img = num_queries
    cfg.neck.in_channels = [CHANNELS]
    cfg.encoder.update(num_layers=2, **encoder)
    cfg.decoder.num_layers = 2
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    if detector == 'smca_detr':  # as after training: heads that look at different places
        for layer in model.decoder.layers:
            torch.nn.init.normal_(layer.scale.weight, std=0.02)
    return model


def _boxes(number, size):
    centre, extent = 0.3 + 0.4 * torch.rand(number, 2), 0.1 + 0.3 * torch.rand(number, 2)
    boxes = bbox_cxcywh_to_xyxy(torch.cat((centre, extent), dim=1))
    return boxes * torch.tensor([size[1], size[0]] * 2)


@pytest.mark.parametrize('detector', DETECTORS)
@pytest.mark.parametrize('numbers', [(0, 0), (3, 0)])
def test_images_without_objects(detector, numbers):
    model = _build(detector).train()
    sizes = [(128, 160), (96, 160)]
    samples = make_samples(
        sizes, (128, 160), [_boxes(n, size) for n, size in zip(numbers, sizes)],
        [[1] * n for n in numbers])
    losses = model.loss(torch.randn(2, CHANNELS, 4, 5), samples)
    total = sum(loss.sum() for key, loss in losses.items() if 'loss' in key)
    total.backward()
    assert total.isfinite() and all(
        p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    if not any(numbers):
        assert losses['loss_bbox'] == 0 and losses['loss_iou'] == 0


def _run(model, feats, samples):
    """Encoder memory (B, H, W, C) and what the head returns."""
    feats = model.extract_feat(feats)
    encoder_inputs, decoder_inputs = model.pre_transformer(feats, samples)
    memory = model.forward_encoder(**encoder_inputs)['memory']
    memory_map = memory.unflatten(1, feats[0].shape[-2:])
    return memory_map, model._forward(feats[0], samples)


@pytest.mark.parametrize('detector', DETECTORS)
@torch.no_grad()
def test_padding_is_not_seen(detector):
    """Same valid features, other amounts and contents of padding: same outputs."""
    model = _build(detector).eval().double()
    model.neck = torch.nn.Identity()
    model.extract_feat = lambda feats: (feats, )
    feats = torch.randn(1, 256, 4, 5).double()
    size = (4 * STRIDE, 5 * STRIDE)
    # MMDetection computes Deformable DETR's valid ratios in float32.
    tolerance = 1e-5 if detector == 'deformable_detr' else 1e-9
    expected = None
    for height, width, fill in ((4, 5, 0.), (4, 9, 0.), (7, 9, 3.), (8, 5, -50.)):
        padded = torch.randn(1, 256, height, width).double() * fill
        padded[..., :4, :5] = feats
        # A second image fills the batch, or nothing would count as padding.
        batch = torch.cat((padded, torch.randn_like(padded)))
        full = (height * STRIDE, width * STRIDE)
        memory, (scores, boxes, *_) = _run(model, batch, make_samples([size, full], full))
        found = [memory[0, :4, :5], scores[:, 0], boxes[:, 0]]
        expected = expected or found
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@torch.no_grad()
def test_images_of_very_different_sizes_get_boxes_within_themselves():
    for detector in DETECTORS:
        model = _build(detector).eval()
        sizes = [(256, 64), (32, 288)]
        samples = make_samples(sizes, (256, 288))
        results = model.predict(torch.randn(2, CHANNELS, 8, 9), samples, rescale=False)
        for (height, width), sample in zip(sizes, results):
            boxes = sample.pred_instances.bboxes
            assert len(boxes) == 12 and boxes.isfinite().all() and (boxes >= 0).all()
            assert (boxes[:, ::2] <= width).all() and (boxes[:, 1::2] <= height).all()


@pytest.mark.parametrize('dropout', [0., 0.1])
def test_recomputed_encoder_gives_the_same_gradients(dropout):
    gradients = []
    for num_cp in (-1, 2):
        torch.manual_seed(0)
        model = build_detector(CHANNELS, dropout=dropout, layers=(2, 1), num_cp=num_cp).train()
        samples = make_samples([(128, 160)], (128, 160), [_boxes(2, (128, 160))], [[0, 1]])
        feats = torch.randn(1, CHANNELS, 4, 5)
        torch.manual_seed(1)
        sum(loss.sum() for loss in model.loss(feats, samples).values()).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize('dtype', [torch.bfloat16, float16])
def test_matching_in_few_bits_is_the_matching_of_the_same_numbers_in_float32(dtype):
    """float16 cannot hold the cost's 1e-8 and would take the logarithm of zero."""
    init_default_scope('mmdet')
    head = MODELS.build(dict(
        HEAD, num_classes=4, embed_dims=32, train_cfg=dict(assigner=ASSIGNER)))
    hidden, references = torch.randn(1, 2, 12, 32).to(dtype), torch.randn(2, 12, 2).to(dtype)
    head.fc_cls.weight.data *= 100  # scores of exactly 0 and 1
    with torch.autocast('cpu', dtype):
        logits, boxes = head(hidden, references)
    assert logits.dtype == boxes.dtype == torch.float32
    assert logits.abs().max() > 30
    size = (128, 160)
    truth = InstanceData(bboxes=_boxes(5, size), labels=torch.arange(5) % 4)
    with torch.autocast('cpu', dtype):
        few_bits = head.get_targets([logits[0, 0]], [boxes[0, 0]], [truth], [dict(img_shape=size)])
        losses = head.loss_by_feat(logits, boxes, [truth] * 2, [dict(img_shape=size)] * 2)
    exact = head.get_targets([logits[0, 0]], [boxes[0, 0]], [truth], [dict(img_shape=size)])
    assert torch.equal(few_bits[0][0], exact[0][0]) and (exact[0][0] < 4).sum() == 5
    assert all(loss.isfinite().all() and loss.dtype == torch.float32 for loss in losses.values())


def test_points_stay_exact_under_autocast():
    """bfloat16 would move a point at cell 40 by up to an eighth of a cell."""
    model = build_detector(CHANNELS).eval()
    query = torch.randn(1, 20, 256)
    layer, reference = model.decoder.layers[0], 40 * torch.rand(1, 20, 2)
    exact = layer.locate(layer.normalize_query(query, query), reference)
    with torch.autocast('cpu', torch.bfloat16):
        found = layer.locate(layer.normalize_query(query, query), reference)
        references = model.decoder.predict_references(query, query)
    assert all(map(torch.equal, found, exact)) and references.dtype == torch.float32


@torch.no_grad()
def test_bf16_is_close():
    model = build_detector(CHANNELS, layers=(2, 2)).eval()
    feats, samples = torch.randn(2, CHANNELS, 7, 9), make_samples(
        [(224, 288), (160, 200)], (224, 288))
    exact = model._forward(feats, samples)
    with torch.autocast('cpu', torch.bfloat16):
        found = model._forward(feats, samples)
    for a, b in zip(found, exact):
        assert ((a - b).std() / b.std()) < 0.02


@torch.no_grad()
@pytest.mark.no_cover
@needs_compile
def test_forward_compiles():
    """Traced and functionalised; test_modulated_attention.py compiles down to machine code."""
    model = build_detector(CHANNELS, embed_dims=32, layers=(1, 1)).eval()
    feats, samples = torch.randn(2, CHANNELS, 7, 9), make_samples(
        [(224, 288), (160, 200)], (224, 288))
    compiled = torch.compile(model._forward, backend='aot_eager')(feats, samples)
    for a, b in zip(compiled, model._forward(feats, samples)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match='type1, type2, type3, type4'):
        build_detector(dynamic_scale='type5')
    with pytest.raises(ValueError, match='FocalLoss'):
        MODELS.build(dict(HEAD, num_classes=4, loss_cls=dict(
            type='CrossEntropyLoss', use_sigmoid=False)))


def test_without_mmdetection_its_configs_say_what_is_missing():
    code = ('import sys\n'
            'sys.modules["mmdet"] = None  # as if it were not installed\n'
            'from mmcontainer.cli.config_check import import_custom_modules\n'
            'import_custom_modules(dict(custom_imports=dict(imports="mmcontainer.detectors")))\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert "'mmcontainer.detectors' cannot be imported" in done.stderr and 'mmdet' in done.stderr


def test_resolves_in_a_fresh_process():
    """Build in a process where nothing else has imported the detectors, or MMDetection."""
    code = ('import sys\n'
            'from mmengine.config import Config\n'
            'from mmengine.registry import MODELS, init_default_scope\n'
            'init_default_scope("mmdet")\n'
            'model = MODELS.build(Config.fromfile(sys.argv[1]).model)\n'
            'print(type(model).__name__, type(model.bbox_head).__name__)\n')
    path = CONFIGS / 'smca_detr_container_light_50e_coco.py'
    done = subprocess.run([sys.executable, '-c', code, path], capture_output=True, text=True)
    assert done.stdout.split() == ['SMCADETR', 'SMCAHead'], done.stderr
