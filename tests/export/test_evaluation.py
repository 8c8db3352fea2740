"""AP by tools/onnx_detect.py is AP by MMDetection, and mistakes are messages."""
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from torch_versions import needs_export

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
from toy_onnx import NAMES as TOY_NAMES  # noqa: E402
from toy_onnx import write_detector, write_pictures  # noqa: E402

from mmcontainer.errors import UserError  # noqa: E402
from mmcontainer.export.evaluation import (  # noqa: E402
    average_precision,
    load_file,
    read_ground_truth,
)


@pytest.fixture
def toy(tmp_path):
    """A detector, its pictures in a folder, and their annotations."""
    write_detector(tmp_path / 'toy.onnx')
    annotations = write_pictures(tmp_path / 'pictures')
    return load_file(tmp_path / 'toy.onnx'), annotations, tmp_path / 'pictures'


def change(annotations, edit):
    """Let a function edit the content of a file of annotations."""
    content = json.loads(annotations.read_text())
    edit(content)
    annotations.write_text(json.dumps(content))


def test_all_found_is_one(toy):
    detector, annotations, folder = toy
    truth = read_ground_truth(annotations, folder, detector.classes)
    assert truth.categories == [8, 3] and len(truth.images) == 6
    assert average_precision(detector, truth) == dict(bbox=1.)


@pytest.mark.parametrize('spoil', [
    lambda item, number: item.update(id=number), lambda item, number: item.update(id=1),
    lambda item, number: [item.pop(key) for key in ('id', 'area', 'iscrowd') if key in item]])
def test_files_are_repaired_as_for_a_test(toy, spoil):
    detector, annotations, folder = toy

    def edit(content):
        for number, item in enumerate(content['annotations']):
            spoil(item, number)
        for image in content['images']:
            image['file_name'] = f'.\\{image["file_name"]}'

    change(annotations, edit)
    before = annotations.read_bytes()
    truth = read_ground_truth(annotations, folder, detector.classes)
    assert average_precision(detector, truth) == dict(bbox=1.)
    assert annotations.read_bytes() == before


def test_nothing_found_is_zero(toy):
    detector, annotations, folder = toy
    for path in folder.glob('*.png'):
        cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path))))
    truth = read_ground_truth(annotations, folder, detector.classes)
    assert average_precision(detector, truth) == dict(bbox=0.)


def test_other_classes_and_missed_objects_count(toy):
    detector, annotations, folder = toy

    def edit(content):
        for entry in content['annotations'][:3]:
            entry['category_id'] = 8  # an ant, in three of six pictures

    change(annotations, edit)
    truth = read_ground_truth(annotations, folder, detector.classes)
    # Of ants none is found. Of bees three of three, but among six detections of equal score: the
    # first three are wrong. Precision is at most 3 / 6 there.
    assert average_precision(detector, truth)['bbox'] == pytest.approx(0.25, abs=0.01)


def test_mistakes_are_messages(toy, tmp_path):
    detector, annotations, folder = toy

    def refused(*arguments):
        with pytest.raises(UserError) as caught:
            read_ground_truth(*arguments)
        return str(caught.value)

    assert 'cannot be read' in refused(tmp_path / 'none.json', folder, TOY_NAMES)
    (tmp_path / 'broken.json').write_text('{')
    assert 'broken.json' in refused(tmp_path / 'broken.json', folder, TOY_NAMES)
    assert "'dog'" in refused(annotations, folder, ['ant', 'dog'])
    assert 'no object of the classes' in refused(annotations, folder, ['cat'])
    shutil.copy(annotations, tmp_path / 'a.json')
    (tmp_path / 'empty').mkdir()
    message = refused(tmp_path / 'a.json', tmp_path / 'empty', TOY_NAMES)
    assert '6 of the 6 images' in message and '0.png and others' in message
    (folder / '3.png').write_bytes(b'no image')
    with pytest.raises(UserError, match='3.png: cannot be read as an image'):
        average_precision(detector, read_ground_truth(annotations, folder, TOY_NAMES))
    (tmp_path / 'text.onnx').write_text('no ONNX file')
    write_detector(tmp_path / 'other.onnx', format=None)
    for path in ('none.onnx', 'text.onnx', 'other.onnx'):
        with pytest.raises(UserError, match=path):
            load_file(tmp_path / path)


# --------------------------------------------------------------------------------- MMDetection's AP

KINDS = ('retinanet', 'detr', 'smca', 'faster_rcnn', 'mask_rcnn', 'cascade_mask_rcnn',
         'deformable_detr')
CLASSES = ['ant', 'bee', 'cat', 'dog']


class GraphSession:
    """The graph of a detector in PyTorch, in place of a file of it."""

    def __init__(self, graph):
        self.graph = graph

    @torch.no_grad()
    def run(self, names, feed):
        found = dict(zip(self.graph.output_names, self.graph(torch.from_numpy(feed['images']))))
        return [found[name].numpy() for name in names]


def describe(detector, root):
    """Write annotations: a half of what the detector finds itself, and somewhat beside it."""
    from pycocotools import mask as rle
    rng = np.random.default_rng(1)
    images, annotations = [], []
    for number, path in enumerate(sorted(root.glob('*.png')), start=1):
        result = detector(path)
        images.append(dict(id=number, file_name=path.name, height=result.height,
                           width=result.width))
        for i in range(0, len(result.boxes), 2):
            # Inside of the image, where MMDetection's data set leaves every box as it is.
            limit = [result.width - 2, result.height - 2] * 2
            x1, y1, x2, y2 = (result.boxes[i] + rng.uniform(-3, 3, 4)).clip(1, limit).tolist()
            if min(x2 - x1, y2 - y1) < 4:
                continue
            entry = dict(id=len(annotations) + 1, image_id=number, iscrowd=0,
                         category_id=3 + 2 * int(result.labels[i]), bbox=[x1, y1, x2 - x1, y2 - y1],
                         area=(x2 - x1) * (y2 - y1))
            if result.box_masks is not None:
                code = rle.encode(np.asfortranarray(np.roll(result.mask(i), 1, 0), np.uint8))
                entry['segmentation'] = dict(code, counts=code['counts'].decode())
                entry['area'] = int(rle.area(code))
            if entry['area'] > 0:
                annotations.append(entry)
    categories = [dict(id=3 + 2 * label, name=name) for label, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations.json').write_text(json.dumps(content))


def mmdetection_ap(cfg, model, root):
    """What tools/test.py does: test pipeline, one image after the other, MMDetection's metric."""
    from mmdet.registry import DATASETS
    from mmengine.dataset import pseudo_collate
    from mmengine.evaluator import Evaluator
    dataset = DATASETS.build({**cfg.test_dataloader.dataset, 'data_root': str(root),
                              'ann_file': 'annotations.json', 'data_prefix': dict(img=''),
                              'metainfo': dict(classes=CLASSES), 'test_mode': True})
    evaluator = Evaluator([{**cfg.test_evaluator, 'ann_file': str(root / 'annotations.json')}])
    evaluator.dataset_meta = dataset.metainfo
    for sample in dataset:
        data = pseudo_collate([sample])
        with torch.no_grad():
            evaluator.process(model.test_step(data), data)
    found = evaluator.evaluate(len(dataset))
    return {key[len('coco/'):-len('_mAP')]: value for key, value in found.items()
            if key.endswith('_mAP')}


@needs_export
@pytest.mark.parametrize('kind', KINDS)
def test_ap_is_that_of_mmdetection(kind, tmp_path):
    pytest.importorskip('mmcv._ext')
    pytest.importorskip('mmdet')
    from export_models import noise, small_config, small_detector
    from mmengine.registry import init_default_scope

    from mmcontainer.export.graph import DetectorGraph
    init_default_scope('mmdet')
    cfg, model = small_config(kind), small_detector(kind)
    resize, = (step for step in cfg.test_dataloader.dataset.pipeline if step['type'] == 'Resize')
    resize['scale'] = (150, 110)
    for number, size in enumerate(((140, 190), (100, 80), (230, 310), (150, 110))):
        cv2.imwrite(str(tmp_path / f'{number}.png'), noise(1, *size)[0, ..., ::-1])
    write_detector(tmp_path / 'any.onnx', classes=CLASSES, resize=dict(
        scale=[150, 110], keep_ratio=True, backend=resize.get('backend', 'cv2'),
        interpolation='bilinear'))
    detector = load_file(tmp_path / 'any.onnx')
    graph = DetectorGraph(model).eval()
    detector.session, detector.outputs = GraphSession(graph), list(graph.output_names)
    describe(detector, tmp_path)
    truth = read_ground_truth(tmp_path / 'annotations.json', tmp_path, CLASSES)
    found = average_precision(detector, truth)
    assert list(found) == (['bbox', 'segm'] if 'mask' in kind else ['bbox'])
    assert min(found.values()) > 0.05, found
    assert found == pytest.approx(mmdetection_ap(cfg, model, tmp_path), abs=1e-3)
