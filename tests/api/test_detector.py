"""``mmcontainer.Detector`` with a model that marks what is bright; real detectors: tests/e2e."""
import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip('mmcv.ops')

from infer_config import make_config  # noqa: E402
from mmdet.datasets import CocoDataset  # noqa: E402
from mmdet.evaluation import coco_classes  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from mmcontainer import Detection, Detections, Detector  # noqa: E402
from mmcontainer.api import detector as detectors  # noqa: E402
from mmcontainer.errors import ConfigError, UserError  # noqa: E402

META = dict(classes=('bright', 'other'), palette=[(255, 0, 0), (0, 0, 255)])
BOX = (10, 6, 40, 26)


class BrightSpots(nn.Module):
    """Finds the box around all bright pixels of every image, and its mask."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.dataset_meta, self.names_from = META, 'named by the checkpoint'
        self.batches = []

    def test_step(self, data):
        self.batches.append(len(data['inputs']))
        return [self.find(*pair) for pair in zip(data['inputs'], data['data_samples'])]

    def find(self, inputs, sample):
        if min(inputs.shape[-2:]) < 8:
            raise ConfigError('Images must be at least 8 x 8 pixels.')
        ys, xs = (inputs.float().mean(dim=0) > 180).nonzero(as_tuple=True)
        box = torch.tensor([[xs.min(), ys.min(), xs.max() + 1., ys.max() + 1.]]) if len(xs) else (
            torch.zeros(0, 4))
        box = (box / torch.tensor(sample.scale_factor * 2)).round()
        masks = torch.zeros(len(box), *sample.ori_shape, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, box.int().tolist()):
            mask[y1:y2, x1:x2] = True
        found = InstanceData(bboxes=box.repeat(2, 1), masks=masks.repeat(2, 1, 1),
                             scores=torch.tensor([0.25, 0.875])[:2 * len(box)],
                             labels=torch.tensor([1, 0])[:2 * len(box)])
        return DetDataSample(metainfo=sample.metainfo, pred_instances=found)


@pytest.fixture
def model():
    init_default_scope('mmdet')
    return BrightSpots()


@pytest.fixture
def detector(model):
    return Detector.from_model(model, make_config())


def scene(width=80, height=60, grey=False):
    picture = np.full((height, width, 3), 40, np.uint8)
    picture[BOX[1]:BOX[3], BOX[0]:BOX[2]] = 250
    return picture[..., 0] if grey else picture


@pytest.fixture
def files(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f'{number}.png'), scene(80 + number))
    return [tmp_path / f'{number}.png' for number in range(3)]


def test_one_image(detector, files):
    for image, name in ((files[0], str(files[0])), (str(files[0]), str(files[0])),
                        (scene(), None), (scene(grey=True), None)):
        found = detector(image)
        assert isinstance(found, Detections) and len(found) == 1
        assert (found.image, found.height, found.width) == (name, 60, 80)
        one, = found
        assert (one.label, one.class_name, one.score) == (0, 'bright', 0.875)
        assert one.bbox == list(BOX)
        assert one.binary_mask().sum() == 30 * 20 and one.binary_mask()[6, 10]


def test_threshold_and_order(detector):
    assert [one.score for one in detector(scene(), score_thr=0)] == [0.875, 0.25]
    assert len(detector(scene(), score_thr=0.9)) == 0
    for threshold in (-0.1, 30):
        with pytest.raises(UserError, match='score_thr must be a number from 0 to 1'):
            detector(scene(), score_thr=threshold)


def test_several_images_in_batches(detector, model, files, tmp_path):
    images = [files[2], scene(), str(files[0])]
    found = detector(images, batch_size=2)
    assert model.batches == [2, 1]
    assert [one.image for one in found] == [str(files[2]), None, str(files[0])]
    assert [one.width for one in found] == [82, 80, 80]
    assert [one.width for one in detector(tuple(images))] == [82, 80, 80]
    folder = detector(tmp_path)
    assert [one.image for one in folder] == list(map(str, files))
    assert folder == detector(files) == detector(str(tmp_path), batch_size=7)


@pytest.mark.parametrize('nothing', [[], ()])
def test_nothing_to_do(detector, model, nothing):
    assert detector(nothing) == [] and list(detector(iter(nothing))) == []
    assert model.batches == [] and detector.predict([]) == []


def test_iterables_are_read_when_they_are_asked_for(detector, model):
    asked = []

    def frames():
        for number in range(100):
            asked.append(number)
            yield scene()

    results = detector(frames(), batch_size=2)
    assert asked == []
    assert len(next(results)) == 1 and asked == [0, 1]
    next(results)
    assert asked == [0, 1] and model.batches == [2]
    next(results)
    assert asked == [0, 1, 2, 3]


def test_one_array_for_all_frames(detector):
    """As cv2.VideoCapture.read fills the one it is given."""
    def frames():
        buffer = np.full((60, 80, 3), 40, np.uint8)
        for number in range(4):
            buffer[:] = 40
            buffer[6:26, 10 * number:10 * number + 10] = 250
            yield buffer

    found = list(detector(frames(), batch_size=2))
    assert [one.detections[0].bbox[0] for one in found] == [0., 10., 20., 30.]
    assert not np.array_equal(found[0].draw(), found[1].draw())


def test_home_folder(detector, files, monkeypatch):
    monkeypatch.setenv('HOME', str(files[0].parent))
    assert len(detector(f'~/{files[0].name}')) == 1
    assert len(detector([f'~/{files[0].name}'])) == 1
    assert len(detector('~')) == len(files)


def test_a_broken_link_in_a_folder_is_named(detector, files):
    (files[0].parent / 'gone.png').symlink_to('nowhere')
    with pytest.raises(UserError, match='gone.png: no file, or a link to nothing'):
        detector(files[0].parent)


def test_video(detector, tmp_path):
    path = str(tmp_path / 'clip.avi')
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'MJPG'), 10, (80, 60))
    for _ in range(3):
        writer.write(scene())
    writer.release()
    results = detector(path)
    assert iter(results) is results
    results = list(results)
    assert [one.image for one in results] == [f'{path}/00000{number}' for number in range(3)]
    assert [one.label for frame in results for one in frame] == [0] * 3
    assert results[0].draw().shape == (720, 960, 3)
    (tmp_path / 'text.mp4').write_text('no video')
    with pytest.raises(UserError, match='text.mp4: cannot be read as a video'):
        list(detector(tmp_path / 'text.mp4'))
    with pytest.raises(UserError, match='gone.mp4: there is no such file'):
        list(detector('gone.mp4'))


@pytest.mark.parametrize('size', [(31, 33), (400, 41), (200, 199), (8, 8)])
def test_odd_sizes(detector, size):
    found = detector(np.full((*size, 3), 250, np.uint8))
    assert (found.height, found.width) == size
    assert found.detections[0].bbox == pytest.approx([0, 0, size[1], size[0]], abs=1)
    assert found.draw().ndim == 3


def test_grey_detector(model):
    detector = Detector.from_model(model, make_config("color_type='grayscale'"))
    for image in (scene(), scene(grey=True)):
        assert detector(image).detections[0].bbox == list(BOX)
        assert detector.read(image).data['inputs'].shape[0] == 1


def test_arrays_are_bgr_and_stay_as_they_are(detector):
    image = scene()
    image[..., 0] = 255  # blue
    before = image.copy()
    read = detector.read(image)
    np.testing.assert_array_equal(read.pixels, before)
    drawn = detector(image).draw()
    np.testing.assert_array_equal(image, before)
    assert drawn[-1, -1].tolist() == [40, 40, 255]  # RGB


@pytest.mark.parametrize('image, message', [
    ('gone.jpg', 'gone.jpg: No such file'),
    (None, 'An image is expected, .* got NoneType'),
    (b'bytes', 'got bytes'), ({}, 'got dict'), (3, 'got int'),
    (torch.zeros(3, 8, 8), 'got Tensor'),
    (Image.new('RGB', (9, 9)), r"got Image\. For a picture of Pillow: np\.asarray"),
    (np.zeros((8, 8, 3)), 'uint8, in BGR; got float64. Multiply'),
    (np.zeros((8, 8, 3), np.int64), 'got int64'),
    (np.zeros((8, 8, 3), np.uint16), 'got uint16. Divide values up to 65535 by 257. Then .astype'),
    (np.zeros((8, 8, 3), bool), 'got bool. Multiply'),
    (np.zeros((8, 8, 4), np.uint8), r'some pixels; got \(8, 8, 4\)'),
    (np.zeros(8, np.uint8), r'got \(8,\)'),
    (np.zeros((0, 8, 3), np.uint8), r'some pixels; got \(0, 8, 3\)'),
    (np.zeros((2, 8, 8, 3), np.uint8), r'got \(2, 8, 8, 3\)'),
    (np.zeros((1, 3000, 3), np.uint8), 'an array: Resize of the test pipeline fails on 3000 x 1'),
    (np.zeros((9, 300, 3), np.uint8), 'an array: Images must be at least 8 x 8'),
])
@pytest.mark.parametrize('listed', [False, True])
def test_what_is_no_image(detector, tmp_path, monkeypatch, image, message, listed):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        detector([scene(), image] if listed else image)
    assert '\n' not in str(caught.value)


def test_files_that_are_no_images(detector, files, tmp_path):
    (tmp_path / 'empty.jpg').write_bytes(b'')
    (tmp_path / 'text.jpg').write_text('no picture')
    (tmp_path / 'cut.png').write_bytes(files[0].read_bytes()[:-60])
    for name in ('empty.jpg', 'text.jpg', 'cut.png'):
        with pytest.raises(UserError, match=f'{name}: '):
            detector(tmp_path / name)
    with pytest.raises(UserError, match='cut.png: '):  # the first in order of names
        detector(tmp_path)
    with pytest.raises(UserError, match='0.png: 80 x 60 .* max_pixels allows'):
        detector(files[0], max_pixels=100)
    (tmp_path / 'folder').mkdir()
    with pytest.raises(UserError, match='folder: a folder without images'):
        detector(tmp_path / 'folder')
    with pytest.raises(UserError, match='folder is a folder or a video, and stands among'):
        detector([tmp_path / 'folder'])


@pytest.mark.parametrize('batch_size', [0, -1, 1.5, True, None])
def test_senseless_batch_size(detector, batch_size):
    with pytest.raises(UserError, match='batch_size must be a whole number from 1'):
        detector([scene()], batch_size=batch_size)


def test_json_and_back(detector, files):
    found = detector(files[0], score_thr=0)
    content = json.loads(found.to_json())
    assert list(content) == ['image', 'height', 'width', 'detections']
    assert list(content['detections'][0]) == ['label', 'class', 'score', 'bbox', 'mask']
    again = Detections.from_dict(content)
    assert again == found and again.to_dict() == content
    assert again.draw(scene(80)).shape == found.draw().shape  # MMDetection varies colours of masks
    with pytest.raises(UserError, match='draw needs the image'):
        again.draw()
    with pytest.raises(UserError, match='80 x 61 pixels, but .* 80 x 60'):
        again.draw(scene(height=61))
    with pytest.raises(UserError, match='draw needs an array .* got str'):
        again.draw(str(files[0]))
    with pytest.raises(UserError, match='needs category_ids: these results were read from a file'):
        again.to_coco()
    assert again.to_coco('x', [7, 9])[0]['category_id'] == 7
    with pytest.raises(UserError, match='has no mask'):
        Detection(0, 'a', 1., [0, 0, 1, 1]).binary_mask()


def test_drawing(detector, files):
    found = detector(files[0])
    drawn = found.draw()
    assert drawn.shape == (720, 960, 3) and drawn.dtype == np.uint8
    red, green, blue = drawn.astype(int).transpose(2, 0, 1)
    ys, xs = np.nonzero((red > 180) & (green < 90) & (blue < 90))  # the palette's
    assert [xs.min() / 12, ys.max() / 12] == pytest.approx([BOX[0], BOX[3]], abs=1)
    assert not np.array_equal(drawn, found.draw(score_thr=0.9))
    copied = pickle.dumps(found)  # which takes no model along
    assert len(copied) < 10_000
    assert pickle.loads(copied).draw().shape == drawn.shape
    files[0].unlink()
    with pytest.raises(UserError, match='0.png: cannot be read'):
        found.draw()


def test_coco_results(detector, tmp_path):
    cv2.imwrite(str(tmp_path / '000000000139.png'), scene())
    found = detector(tmp_path / '000000000139.png', score_thr=0)
    first, second = found.to_coco()
    assert first == dict(image_id=139, category_id=1, bbox=[10, 6, 30, 20], score=0.875,
                         segmentation=found.detections[0].mask)
    assert (second['category_id'], second['score']) == (2, 0.25)
    for numbers in ([7, 9], {'bright': 7, 'other': 9}):
        assert [one['category_id'] for one in found.to_coco('x', numbers)] == [7, 9]
    for numbers in ([7], {'bright': 7}):
        with pytest.raises(UserError, match="no number for 'other', label 1"):
            found.to_coco(1, numbers)
    with pytest.raises(UserError, match='to_coco needs image_id'):
        detector(scene()).to_coco()
    from pycocotools.coco import COCO
    truth = COCO()
    truth.dataset = dict(images=[dict(id=139)], annotations=[],
                         categories=[dict(id=1), dict(id=2)])
    truth.createIndex()
    assert len(truth.loadRes(found.to_coco()).anns) == 2


def test_coco_has_numbers_of_its_own():
    one = Detection(79, 'toothbrush', 0.5, [0., 0., 1., 1.])
    for names in (coco_classes(), CocoDataset.METAINFO['classes']):
        found = Detections('12.jpg', 9, 9, [one], meta=dict(classes=tuple(names)))
        assert found.to_coco()[0]['category_id'] == 90
    other = Detections('12.jpg', 9, 9, [one], dict(classes=None))
    assert other.to_coco()[0]['category_id'] == 80


@pytest.mark.parametrize('config, options, message', [
    ('mmcontainer::retinanet/container_lite_fpn_1x_coco.py', {}, 'Did you mean'),
    ('gone.py', {}, 'There is no config file gone.py'),
    (None, {}, 'config must be the path or name .* got NoneType'),
    (dict(model={}), {}, 'got dict'),
    (Config(dict(model=dict(type='X'), default_scope='mmpretrain')), {}, 'no MMDetection config'),
    (make_config(), dict(amp='fp16'), "amp must be None or 'bf16'"),
    (make_config(), dict(device='cuda:99'), 'device cuda:99 is not available'),
    (make_config(), dict(device='toaster'), 'device toaster is not available'),
])
def test_detectors_that_cannot_be(config, options, message):
    with pytest.raises(UserError, match=message):
        Detector(config, 'gone.pth', **options)


def test_without_mmdetection(monkeypatch):
    monkeypatch.setattr(detectors, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='needs MMDetection.*mmcontainer.doctor'):
        Detector('a.py', 'a.pth')
