"""tools/onnx_detect.py: what it computes, beside mmcv, MMDetection and pycocotools."""
import ast
import io
from importlib.util import find_spec
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from onnx_files import BOXES, CLASSES, LABELS, make_masks, write_detector
from PIL import Image

pytest.importorskip('onnxruntime')


def noise(height, width, seed=0):
    """An image of (height, width, 3), RGB, uint8."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def test_it_imports_nothing_else(repo_root):
    tree = ast.parse((repo_root / 'tools' / 'onnx_detect.py').read_text())
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for name in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    installed = {name for name in names if 'site-packages' in str(find_spec(name).origin)}
    assert installed == {'numpy', 'cv2', 'PIL', 'onnxruntime'}


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('scale', [[200, 120], [120, 200], [1333, 800]])
def test_images_are_resized_as_mmcv_does(script, tmp_path, backend, scale):
    resize = dict(scale=scale, keep_ratio=True, backend=backend, interpolation='bilinear')
    detector = script.Detector(write_detector(tmp_path / 'a.onnx', resize=resize))
    sizes = [(60, 80), (80, 60), (333, 500), (1, 1), (97, 101), (640, 427), (3, 200)]
    for number, (height, width) in enumerate(sizes):
        image = noise(height, width, seed=number)
        expected = mmcv.imrescale(image[..., ::-1], tuple(scale), backend=backend)[..., ::-1]
        inputs, size = detector.prepare(image)
        np.testing.assert_array_equal(inputs[0], expected)
        assert size == expected.shape[:2]


@pytest.mark.parametrize('backend, method', [
    ('cv2', 'nearest'), ('cv2', 'bicubic'), ('cv2', 'area'), ('cv2', 'lanczos'),
    ('pillow', 'nearest'), ('pillow', 'bicubic'), ('pillow', 'lanczos')])
def test_other_interpolations(script, tmp_path, backend, method):
    resize = dict(scale=[200, 120], keep_ratio=True, backend=backend, interpolation=method)
    detector = script.Detector(write_detector(tmp_path / 'a.onnx', resize=resize))
    for height, width in ((60, 80), (333, 500)):
        image = noise(height, width)
        expected = mmcv.imrescale(image, (200, 120), interpolation=method, backend=backend)
        np.testing.assert_array_equal(detector.prepare(image)[0][0], expected)


def test_sizes_by_mmcvs_rule(script, tmp_path):
    resize = dict(scale=[1333, 800], keep_ratio=True, backend='cv2', interpolation='bilinear')
    detector = script.Detector(write_detector(tmp_path / 'a.onnx', resize=resize))
    for height in range(300, 1500, 83):
        for width in range(301, 1500, 91):
            inputs, size = detector.prepare(np.zeros((height, width, 3), np.uint8))
            assert inputs.shape == (1, *size, 3)
            assert size[::-1] == mmcv.rescale_size((width, height), (1333, 800))


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_without_the_ratio(script, tmp_path, backend):
    resize = dict(scale=[90, 70], keep_ratio=False, backend=backend, interpolation='bilinear')
    detector = script.Detector(write_detector(tmp_path / 'a.onnx', resize=resize))
    image = noise(60, 80)
    expected = mmcv.imresize(image, (90, 70), backend=backend)
    np.testing.assert_array_equal(detector.prepare(image)[0][0], expected)
    np.testing.assert_allclose(detector(image).boxes[0], BOXES[1] * [80, 60, 80, 60], rtol=1e-6)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_files_are_decoded_as_mmcv_does(script, tmp_path, backend, orientation):
    resize = dict(scale=[200, 120], keep_ratio=True, backend=backend, interpolation='bilinear')
    detector = script.Detector(write_detector(tmp_path / 'a.onnx', resize=resize))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(30, 40)).save(tmp_path / 'a.jpg', exif=exif)
    for mode in ('L', 'RGBA', 'P', '1', 'I;16'):
        image = Image.fromarray(noise(30, 40, seed=1))
        image = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50) if (
            mode == 'I;16') else image.convert(mode)
        image.save(tmp_path / f'{mode}.png')
    for path in (tmp_path / 'a.jpg', *tmp_path.glob('*.png')):
        # Of 16 bits OpenCV, the default of LoadImageFromFile, keeps the upper 8; Pillow cuts off.
        decoder = 'cv2' if path.stem == 'I;16' else backend
        expected = mmcv.imread(str(path), channel_order='rgb', backend=decoder)
        np.testing.assert_array_equal(detector.read(path), expected)


def test_what_follows_the_end_of_a_jpeg_is_no_damage(script, tmp_path):
    """Phones append a film, whose bytes may be any; a thumbnail inside has an end of its own."""
    thumbnail, buffer = io.BytesIO(), io.BytesIO()
    Image.fromarray(noise(8, 8)).save(thumbnail, 'JPEG')
    picture = Image.fromarray(noise(30, 40))
    picture.save(buffer, 'JPEG', exif=b'Exif\0\0' + thumbnail.getvalue())
    data = buffer.getvalue()
    detector = script.Detector(write_detector(tmp_path / 'a.onnx'))
    path = tmp_path / 'a.jpg'
    path.write_bytes(data + b'\xff\xda film')
    assert detector.read(path).shape == (30, 40, 3)
    for length in (3, 200, len(data) // 2, len(data) - 2):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match='cannot be read'):
            detector.read(path)


def test_detections_in_pixels_of_the_image(script, tmp_path):
    detector = script.Detector(write_detector(tmp_path / 'a.onnx'))
    image = noise(333, 500)
    result = detector(image)
    resized = mmcv.imrescale(image, (200, 120))
    brightness = resized.mean() / 255
    assert (result.height, result.width) == (333, 500)
    np.testing.assert_allclose(result.scores, [0.75, brightness, 0.125], rtol=1e-5)
    assert result.labels.tolist() == [0, 1, 2] and result.classes == CLASSES
    # The padding is gone; MMDetection's own function scales back.
    from mmdet.structures.bbox import scale_boxes
    rows, columns = resized.shape[:2]
    inside = torch.from_numpy(BOXES[[1, 0, 2]] * np.float32([columns, rows] * 2))
    expected = scale_boxes(inside, [1 / (columns / 500), 1 / (rows / 333)])
    np.testing.assert_allclose(result.boxes, expected.numpy(), rtol=1e-6)
    assert detector(image, score_thr=0.2).labels.tolist() == [0, 1]
    assert detector(image, score_thr=0.9).detections() == []


@pytest.mark.parametrize('size, shape, inside', [
    ([128, 224], (60, 80), (120, 160)),  # what fits is resized as ever
    ([224, 128], (60, 80), (96, 128)),  # else as large as it fits
    ([64, 64], (60, 80), (48, 64)), ([64, 64], (80, 60), (64, 48))])
def test_a_file_of_a_fixed_size_pads(script, tmp_path, size, shape, inside):
    detector = script.Detector(write_detector(tmp_path / 'a.onnx', size=size))
    image = noise(*shape)
    (inputs, ), used = detector.prepare(image)
    assert inputs.shape == (*size, 3) and used == inside
    rows, columns = inside
    np.testing.assert_array_equal(inputs[:rows, :columns], mmcv.imresize(image, (columns, rows)))
    for rest in (inputs[rows:], inputs[:, columns:]):
        assert not rest.any()
    boxes = BOXES[[1, 0, 2]] * np.float32([size[1], size[0]] * 2)  # shares of the padded image
    expected = (boxes * ([shape[1] / columns, shape[0] / rows] * 2)).clip(0, [*shape[::-1]] * 2)
    kept = (expected[:, 2] > expected[:, 0]) & (expected[:, 3] > expected[:, 1])
    result = detector(image)
    found = {label: box for label, box in zip(result.labels, result.boxes)}
    assert len(found) == kept.sum()
    for label, box, keep in zip(LABELS[[1, 0, 2]], expected, kept):
        if keep:
            np.testing.assert_allclose(found[label], box, rtol=1e-5)


def some_boxes(height, width):
    """Boxes of all sizes, also across the edge, and thinner than a pixel."""
    generator = np.random.default_rng(1)
    corners = generator.uniform(-10, [width, height], (40, 2))
    boxes = np.hstack([corners, corners + generator.uniform(0.01, 60, (40, 2)) ** 1.2])
    return np.vstack([boxes, [0, 0, width, height], [width - 1, 3, width, 4],
                      [2.3, 4.7, 2.4, 4.9]]).astype(np.float32)


def masked(script, boxes, height, width, threshold=0.5):
    """A result with boxes and masks."""
    return script.Result(height, width, boxes, np.ones(len(boxes), 'f'), np.zeros(len(boxes), int),
                         CLASSES, make_masks(len(boxes)), threshold)


@pytest.mark.parametrize('threshold', [0.5, 0.3])
def test_masks_are_pasted_as_mmdetection_does(script, threshold):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
    height, width = 90, 130
    result = masked(script, some_boxes(height, width), height, width, threshold)
    for index, (box, mask) in enumerate(zip(result.boxes, result.box_masks)):
        expected = torch.zeros(1, height, width, dtype=torch.bool)
        values, region = _do_paste_mask(torch.from_numpy(mask)[None, None],
                                        torch.from_numpy(box)[None], height, width)
        expected[(slice(None), *region)] = values >= threshold
        pasted = result.mask(index)
        assert pasted.dtype == bool
        np.testing.assert_array_equal(pasted, expected[0].numpy(), err_msg=str(box))


def test_a_box_without_width_has_no_pixels(script):
    result = masked(script, np.float32([[5, 6, 5, 20], [5.5, 6.5, 5.5, 6.5]]), 30, 40)
    assert not result.mask(0).any() and not result.mask(1).any()


def test_masks_are_compressed_as_pycocotools_does(script):
    from pycocotools.mask import encode
    generator = np.random.default_rng(0)
    masks = [np.zeros((5, 7), bool), np.ones((5, 7), bool), np.ones((1, 1), bool),
             np.zeros((1, 1), bool), generator.random((50, 60)) < 0.5,
             np.ones((700, 900), bool)]
    result = masked(script, some_boxes(400, 300), 400, 300)
    masks += [result.mask(index) for index in range(len(result.boxes))]
    for mask in masks:
        expected = encode(np.asfortranarray(mask, np.uint8))
        assert script.encode_mask(mask) == dict(
            size=expected['size'], counts=expected['counts'].decode())


@pytest.mark.parametrize('masks', [False, True])
def test_plain_data_are_those_of_infer(script, tmp_path, masks):
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    from mmcontainer.api.results import describe
    detector = script.Detector(write_detector(tmp_path / 'a.onnx', masks))
    image = noise(60, 80)
    result = detector(image, 0.2)
    found = detector(image)
    instances = InstanceData(bboxes=torch.from_numpy(found.boxes).clone(),
                             scores=torch.from_numpy(found.scores),
                             labels=torch.from_numpy(found.labels))
    if masks:
        head = FCNMaskHead(num_classes=3, class_agnostic=True)
        probabilities = torch.from_numpy(found.box_masks)[:, None].logit()
        instances.masks = head._predict_by_feat_single(
            probabilities, instances.bboxes, instances.labels,
            dict(ori_shape=(60, 80), scale_factor=(1., 1.)),
            SimpleNamespace(mask_thr_binary=0.5), rescale=True)
    sample = DetDataSample(metainfo=dict(ori_shape=(60, 80)), pred_instances=instances)
    expected = describe(sample, dict(classes=CLASSES), 'a.jpg', 0.2).to_dict()['detections']
    assert len(expected) == 2 and result.detections() == expected
    assert ('mask' in result.detections()[0]) == masks
    assert list(result.detections()[0]) == list(expected[0])


@pytest.fixture(params=['cv2', 'pillow'])
def drawn_by(request, script, monkeypatch):
    if request.param == 'pillow':
        monkeypatch.setattr(script, 'cv2', None)


def test_drawing(script, drawn_by, tmp_path):
    boxes = BOXES[[1, 0]] * np.float32([400, 300] * 2)
    result = masked(script, boxes, 300, 400)
    image = noise(300, 400) // 8 + 100
    before = image.copy()
    picture = result.draw(image)
    np.testing.assert_array_equal(image, before)
    assert picture.shape == image.shape and picture.dtype == np.uint8
    x1, y1, x2, y2 = boxes[0].round().astype(int)
    frame = picture[y1 + 20:y2 - 5, x1]
    assert (frame == frame[0]).all() and (picture[y1 + 20:y2 - 5, x2] == frame[0]).all()
    changed = (picture != image).any(axis=2)
    only_mask = result.mask(0)[y1 + 20:y2 - 5, x1 + 3:x2 - 3]
    assert only_mask.any() and not only_mask.all()
    np.testing.assert_array_equal(changed[y1 + 20:y2 - 5, x1 + 3:x2 - 3], only_mask)
    letters = picture[y1 - 12:y1, x1:x1 + 90].astype(int)
    assert 20 < (letters.min(axis=2) > 180).sum() < 500  # white on the colour of the frame
    np.testing.assert_array_equal(masked(script, boxes[:0], 300, 400).draw(image), image)


def test_boxes_that_are_drawn_across_every_edge(script, drawn_by):
    boxes = np.float32([[-5, -5, 3, 3], [35, 25, 60, 60], [0, 0, 40, 30], [10, 10, 10, 10],
                        [50, 50, 60, 60], [-9, -9, -3, -3]])
    assert masked(script, boxes, 30, 40).draw(noise(30, 40)).shape == (30, 40, 3)


def test_pictures_are_written_as_they_are(script, drawn_by, tmp_path):
    red = np.full((30, 40, 3), [200, 50, 10], np.uint8)
    script.write_jpeg(tmp_path / 'a.jpg', red)
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / 'a.jpg')).astype(int), red, atol=3)


@pytest.mark.parametrize('image', [
    np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3), np.float32),
    np.zeros((0, 5, 3), np.uint8)])
def test_arrays_that_are_no_images(script, tmp_path, image):
    detector = script.Detector(write_detector(tmp_path / 'a.onnx'))
    with pytest.raises(ValueError, match=r'expected pixels of \(H, W, 3\), RGB, uint8'):
        detector(image)


def test_thin_images(script, tmp_path):
    detector = script.Detector(write_detector(tmp_path / 'a.onnx'))
    for shape in ((3000, 1), (1, 5000)):
        with pytest.raises(ValueError, match='too thin to be resized'):
            detector(noise(*shape))


def test_the_other_library_steps_in(script, tmp_path, monkeypatch, capsys):
    for backend, other in (('cv2', 'pillow'), ('pillow', 'cv2')):
        resize = dict(scale=[200, 120], keep_ratio=True, backend=backend, interpolation='bilinear')
        write_detector(tmp_path / 'a.onnx', resize=resize)
        cv2.imwrite(str(tmp_path / 'a.png'), noise(60, 80))
        with monkeypatch.context() as patch:
            patch.setattr(script, 'cv2' if backend == 'cv2' else 'Image', None)
            detector = script.Detector(tmp_path / 'a.onnx')
            assert detector.library == other
            assert f'note: without {backend}' in capsys.readouterr().err
            assert len(detector(tmp_path / 'a.png').boxes) == 3


def test_files_that_are_no_detectors(script, tmp_path):
    path = tmp_path / 'a.onnx'
    for content in (b'', b'no model', bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match='a.onnx is no ONNX file'):
            script.Detector(path)
    for path in (tmp_path, tmp_path / 'gone.onnx'):
        with pytest.raises(ValueError, match=str(path)):
            script.Detector(path)
    for changes in (dict(metadata=None), dict(outputs=('stage0', 'stage1')), dict(format=2)):
        write_detector(tmp_path / 'a.onnx', **changes)
        with pytest.raises(ValueError, match='no detector of format 1; the export_onnx.py beside'):
            script.Detector(tmp_path / 'a.onnx')
