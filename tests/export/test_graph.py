"""Post-processing made for a batch finds what MMDetection finds, image by image."""
import numpy as np
import pytest
import torch
from torch_versions import needs_export

pytestmark = needs_export
pytest.importorskip('mmcv._ext')
pytest.importorskip('mmdet')
from export_models import CONFIGS, noise, small_config, small_detector  # noqa: E402

from mmcontainer.cli.configs import build_model  # noqa: E402
from mmcontainer.errors import UserError  # noqa: E402
from mmcontainer.export.comparison import Detections, compare, predict  # noqa: E402
from mmcontainer.export.graph import DetectorGraph  # noqa: E402
from mmcontainer.export.pixels import Pixels  # noqa: E402
from mmcontainer.export.suppression import best, suppress  # noqa: E402

SIZES = ((100, 140), (128, 160), (97, 75))


def run(graph, images):
    """The detections of a graph, without the places that none fills."""
    with torch.no_grad():
        dets, labels, *masks = (out.numpy() for out in graph(torch.from_numpy(images)))
    assert (dets[labels < 0] == 0).all() and (dets[labels >= 0][:, 4] > 0).all()
    return [Detections(dets[i, found, :4], dets[i, found, 4], labels[i, found],
                       masks[0][i, found] if masks else None)
            for i, found in enumerate(labels >= 0)]


@pytest.mark.parametrize('kind', CONFIGS)
def test_detections_are_those_of_mmdetection(kind):
    model = small_detector(kind)
    graph = DetectorGraph(model).eval()
    for height, width in SIZES:
        images = noise(2, height, width)
        expected, found = predict(model, images, 0.), run(graph, images)
        assert ('masks' in graph.output_names) == (found[0].masks is not None)
        result = compare(expected, found, 0., 1000)
        assert result.unmatched == 0 and result.detections >= 40, result
        assert result.box <= 1e-3 and result.score <= 1e-5 and result.mask <= 1e-5, result


def test_few_anchors_leave_places_empty():
    """A picture with fewer anchors than candidates of a level, and nothing above the threshold."""
    model = small_detector('retinanet')
    model.test_cfg.update(nms_pre=1000, max_per_img=2000)
    images = noise(1, 40, 40)
    found = run(DetectorGraph(model).eval(), images)
    assert compare(predict(model, images, 0.), found, 0., 2000).unmatched == 0
    assert 20 < len(found[0].scores) < 2000
    model.test_cfg.score_thr = 0.999
    assert len(run(DetectorGraph(model).eval(), images)[0].scores) == 0


@pytest.mark.parametrize('kind', ['retinanet', 'faster_rcnn'])
def test_without_nms_all_candidates_are_returned(kind):
    graph = DetectorGraph(small_detector(kind), with_nms=False).eval()
    with torch.no_grad():
        boxes, scores = graph(torch.from_numpy(noise(2, 64, 96)))
    assert graph.output_names == ('boxes', 'scores')
    assert boxes.shape[:2] == scores.shape[:2] and boxes.shape[-1] == scores.shape[-1] == 4
    assert (scores >= 0).all() and (scores <= 1).all() and (scores > 0).any()


@pytest.mark.parametrize('channels', [dict(bgr_to_rgb=True), dict(bgr_to_rgb=False)])
def test_pixels_are_those_of_the_data_preprocessor(channels):
    from mmdet.models import DetDataPreprocessor
    preprocessor = DetDataPreprocessor(
        mean=[120., 110., 100.], std=[60., 50., 40.], pad_size_divisor=32, pad_value=3, **channels)
    images = noise(1, 33, 64)
    bgr = torch.from_numpy(images[0, ..., ::-1].transpose(2, 0, 1).copy())
    expected = preprocessor(dict(inputs=[bgr], data_samples=None))['inputs']
    found, size = Pixels(preprocessor)(torch.from_numpy(images))
    assert torch.equal(found, expected) and size == (33, 64, 64, 64)


def test_suppression_keeps_groups_and_images_apart():
    box, other = [10., 10., 50., 50.], [12., 10., 50., 50.]
    boxes = torch.tensor([[box, other, other, [60., 60., 90., 90.]], [other, box, box, box]])
    scores = torch.tensor([[.9, .8, .7, -1.], [.5, .6, .4, .3]])
    groups = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 2]])
    kept = suppress(boxes, scores, groups, 0.5, 10)
    assert torch.equal(kept, torch.tensor([[.9, -1, .7, -1], [-1, .6, -1, .3]]))
    only = suppress(boxes, scores, groups, 0.5, 1) > 0
    assert torch.equal(only, scores == scores.amax(1)[:, None])
    values, places = best(kept, 6)
    assert values[0].tolist() == pytest.approx([.9, .7, -1, -1, -1, -1])
    assert places[1].tolist() == [1, 3, 0, 0, 0, 0]


def test_comparison_finds_differences():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 30, 30]], np.float32)
    scores, labels = np.array([.9, .5], np.float32), np.array([0, 1])
    one = [Detections(boxes, scores, labels)]
    assert compare(one, one, 0.05, 100).is_equal
    for change in (Detections(boxes + 0.1, scores, labels), Detections(boxes, scores, labels[::-1]),
                   Detections(boxes, scores - 0.001, labels),
                   Detections(boxes[:1], scores[:1], labels[:1])):
        assert not compare(one, [change], 0.05, 100).is_equal
        assert not compare([change], one, 0.05, 100).is_equal
    masks = np.full((2, 4, 4), 0.5, np.float32)
    with_masks = Detections(boxes, scores, labels, masks)
    assert compare([with_masks], [with_masks], 0.05, 100).is_equal
    for number in (0.6, np.nan):
        change = masks.copy()
        change[1, 2, 3] = number
        change = Detections(boxes, scores, labels, change)
        assert not compare([with_masks], [change], 0.05, 100).is_equal
    # Rounding decides about a score at the threshold.
    assert compare(one, [Detections(boxes[:1], scores[:1], labels[:1])], 0.49995, 100).is_equal


@pytest.mark.parametrize('change, message', [
    (lambda m: m.test_cfg.nms.update(type='soft_nms'), 'test_cfg.nms='),
    (lambda m: m.bbox_head.update(type='FreeAnchorRetinaHead'), 'FreeAnchorRetinaHead'),
    (lambda m: m.test_cfg.pop('nms_pre'), 'nms_pre')])
def test_other_parts_are_refused(change, message):
    cfg = small_config('retinanet')
    change(cfg.model)
    if cfg.model.bbox_head.type != 'RetinaHead':
        cfg.model.bbox_head.pop('loss_cls')
    with pytest.raises(UserError, match=message):
        DetectorGraph(build_model(cfg.model, 'mmdet'))


def test_other_detectors_are_refused():
    with pytest.raises(UserError, match='no suppression'):
        DetectorGraph(small_detector('detr'), with_nms=False)
