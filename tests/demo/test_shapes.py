"""The generated data set: correct, reproducible, and never half-written."""
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmcontainer.demo import CLASSES, ShapesParams, generate, generate_shapes
from mmcontainer.demo.shapes import main
from mmcontainer.errors import UserError

PARAMS = ShapesParams(num_train=60, num_val=12, size=96, seed=5)
SPLITS = dict(train=60, val=12)


def digest(root):
    """Relative path -> hash of every file."""
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob('*')) if path.is_file()}


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    assert generate_shapes(root, PARAMS) is True
    return root


@pytest.fixture(scope='module', params=sorted(SPLITS))
def coco(shapes, request):
    return COCO(str(shapes / 'annotations' / f'instances_{request.param}.json'))


def test_the_same_bytes_for_any_number_of_workers(shapes, tmp_path):
    generate_shapes(tmp_path / 'again', PARAMS, num_workers=3)
    assert digest(tmp_path / 'again') == digest(shapes)


def test_seed_and_split_change_the_pictures_but_num_train_does_not_change_val(shapes, tmp_path):
    generate_shapes(tmp_path / 'a', ShapesParams(2, 2, 96, seed=6))
    generate_shapes(tmp_path / 'b', ShapesParams(3, 2, 96, seed=5))
    a, b, base = digest(tmp_path / 'a'), digest(tmp_path / 'b'), digest(shapes)
    pictures = [name for name in b if name.endswith('.jpg')]
    assert len(pictures) == 5
    assert all(b[name] == base[name] for name in pictures)
    assert all(a[name] != base[name] for name in a if name.endswith('.jpg'))
    assert b['train/000001.jpg'] != b['val/000001.jpg']


def test_the_version_is_raised_when_scenes_change(tmp_path):
    """Whoever changes what is generated must raise ``_VERSION``, or old data sets pass for new.

    Only annotations are compared: they come from integer arithmetic, the same everywhere.
    """
    generate_shapes(tmp_path / 'shapes', ShapesParams(3, 1, 64, seed=0))
    content = (tmp_path / 'shapes/annotations/instances_train.json').read_bytes()
    found = generate._VERSION, hashlib.sha256(content).hexdigest()[:16]
    assert found == (1, '5f74915c5870ae9f')


def test_layout_and_fields(coco):
    data = coco.dataset
    split = data['info']['description'].split()[2]
    assert sorted(data) == ['annotations', 'categories', 'images', 'info', 'licenses']
    assert [c['name'] for c in data['categories']] == list(CLASSES)
    assert len(data['images']) == SPLITS[split]
    assert len({a['id'] for a in data['annotations']}) == len(data['annotations'])
    licenses = {entry['id'] for entry in data['licenses']}
    assert all(i['license'] in licenses for i in data['images'])
    assert {a['category_id'] for a in data['annotations']} == set(range(1, len(CLASSES) + 1))
    assert all(a['iscrowd'] == 0 for a in data['annotations'])


def test_pictures_are_as_large_as_declared_and_textured(coco, shapes):
    split = coco.dataset['info']['description'].split()[2]
    for image in coco.dataset['images']:
        picture = cv2.imread(str(shapes / split / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)
        assert picture.std() > 5


def test_boxes_and_areas_are_those_of_the_visible_masks(coco):
    for annotation in coco.dataset['annotations']:
        mask = coco.annToMask(annotation)
        ys, xs = np.nonzero(mask)
        assert annotation['area'] == mask.sum() >= 24
        assert annotation['bbox'] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]


def test_masks_of_one_picture_are_disjoint(coco):
    for image_id in coco.getImgIds():
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert annotations
        assert sum(coco.annToMask(a).astype(int) for a in annotations).max() == 1


def test_masks_follow_the_edges_in_the_picture(shapes):
    """Across the outline of a mask the colour jumps more than inside it: masks fit the pixels."""
    coco = COCO(str(shapes / 'annotations' / 'instances_train.json'))
    across, inside = [], []
    for annotation in coco.dataset['annotations']:
        if annotation['area'] < 200:
            continue
        name = coco.loadImgs(annotation['image_id'])[0]['file_name']
        picture = cv2.imread(str(shapes / 'train' / name)).astype(float)
        mask = coco.annToMask(annotation)
        inner = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=2).astype(bool)
        jump = np.abs(picture[:, 4:] - picture[:, :-4]).sum(-1)
        border = (mask[:, 4:] != mask[:, :-4])
        core = inner[:, 4:] & inner[:, :-4]
        if border.any() and core.any():
            across.append(jump[border].mean())
            inside.append(jump[core].mean())
    assert len(across) > 50
    assert np.mean(np.array(across) > np.array(inside)) > 0.85


def test_hard_cases_exist(shapes):
    coco = COCO(str(shapes / 'annotations' / 'instances_train.json'))
    truncated = overlapping = holes = 0
    areas = []
    for image_id in coco.getImgIds():
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        masks = [coco.annToMask(a).astype(bool) for a in annotations]
        areas += [a['area'] for a in annotations]
        truncated += sum(m[[0, -1]].any() or m[:, [0, -1]].any() for m in masks)
        grown = [cv2.dilate(m.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for m in masks]
        overlapping += sum((grown[i] & masks[j]).any() for i in range(len(masks)) for j in range(i))
        holes += sum(len(cv2.findContours(m.astype(np.uint8), cv2.RETR_CCOMP,
                                          cv2.CHAIN_APPROX_NONE)[0]) > 1 for m in masks)
    assert truncated > len(areas) * 0.1
    assert overlapping > len(areas) * 0.1
    assert holes > 0
    assert min(areas) < 80 and max(areas) > 1000  # of 9216 pixels


def test_colour_does_not_tell_the_class(shapes):
    """Mean colours of the classes differ by less than the spread inside one class."""
    coco = COCO(str(shapes / 'annotations' / 'instances_train.json'))
    colours = {c: [] for c in range(1, len(CLASSES) + 1)}
    for annotation in coco.dataset['annotations']:
        name = coco.loadImgs(annotation['image_id'])[0]['file_name']
        picture = cv2.imread(str(shapes / 'train' / name))
        colours[annotation['category_id']].append(
            picture[coco.annToMask(annotation).astype(bool)].mean(0))
    means = np.array([np.mean(values, 0) for values in colours.values()])
    spread = np.mean([np.std(values, 0) for values in colours.values()])
    assert np.ptp(means, axis=0).max() < spread


def test_mmdet_reads_it_with_masks(shapes):
    pytest.importorskip('mmcv.ops')
    from mmdet.datasets import CocoDataset
    from mmdet.utils import register_all_modules
    register_all_modules(init_default_scope=True)
    dataset = CocoDataset(
        data_root=str(shapes), ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'), metainfo=dict(classes=CLASSES), pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='PackDetInputs')])
    assert len(dataset) == SPLITS['val']
    coco = COCO(str(shapes / 'annotations' / 'instances_val.json'))
    for i in range(len(dataset)):
        item = dataset[i]
        truth = item['data_samples'].gt_instances
        annotations = coco.loadAnns(coco.getAnnIds(item['data_samples'].img_id))
        assert truth.labels.tolist() == [a['category_id'] - 1 for a in annotations]
        assert truth.masks.masks.sum((1, 2)).tolist() == [a['area'] for a in annotations]


def test_an_existing_data_set_is_reused_at_once(shapes, capsys):
    before = digest(shapes)
    start = time.monotonic()
    assert generate_shapes(shapes, PARAMS) is False
    assert time.monotonic() - start < 1
    assert 'there already' in capsys.readouterr().out
    assert digest(shapes) == before


def test_other_parameters_need_the_flag(tmp_path):
    root = tmp_path / 'shapes'
    generate_shapes(root, ShapesParams(2, 1, 64, 0))
    before = digest(root)
    with pytest.raises(FileExistsError, match="'seed': 0.*'seed': 1.*--overwrite"):
        generate_shapes(root, ShapesParams(2, 1, 64, 1))
    assert digest(root) == before
    assert generate_shapes(root, ShapesParams(2, 1, 64, 1), overwrite=True)
    after = digest(root)
    assert after.keys() == before.keys() and after['train/000001.jpg'] != before['train/000001.jpg']
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']


def test_a_damaged_data_set_is_noticed(tmp_path):
    params = ShapesParams(2, 1, 64, 0)
    generate_shapes(tmp_path / 'shapes', params)
    (tmp_path / 'shapes' / 'train' / '000002.jpg').unlink()
    with pytest.raises(FileExistsError, match='misses files.*--overwrite'):
        generate_shapes(tmp_path / 'shapes', params)
    generate_shapes(tmp_path / 'shapes', params, overwrite=True)
    assert (tmp_path / 'shapes' / 'train' / '000002.jpg').is_file()


@pytest.mark.parametrize('overwrite', [False, True])
def test_foreign_content_is_never_touched(tmp_path, overwrite):
    folder = tmp_path / 'mine'
    folder.mkdir()
    (folder / 'thesis.tex').write_text('years of work')
    with pytest.raises(FileExistsError, match='not a data set made by this generator'):
        generate_shapes(folder, ShapesParams(1, 1, 64, 0), overwrite=overwrite)
    file = tmp_path / 'file'
    file.write_text('x')
    with pytest.raises(FileExistsError, match='not a data set made by this generator'):
        generate_shapes(file, ShapesParams(1, 1, 64, 0), overwrite=overwrite)
    assert digest(tmp_path).keys() == {'mine/thesis.tex', 'file'}


def test_a_failed_replacement_keeps_the_old_data_set(tmp_path, monkeypatch):
    root = tmp_path / 'shapes'
    generate_shapes(root, ShapesParams(2, 1, 64, 0))
    before = digest(root)
    real = os.replace

    def broken(source, target):
        if str(source).endswith('new'):
            raise OSError('disk gone')
        real(source, target)

    monkeypatch.setattr(generate.os, 'replace', broken)
    with pytest.raises(OSError, match='disk gone'):
        generate_shapes(root, ShapesParams(2, 1, 64, 1), overwrite=True)
    assert digest(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']


@pytest.mark.parametrize('workers', [1, 2])
def test_ctrl_c_leaves_nothing(tmp_path, workers, unmeasured):
    process = subprocess.Popen(
        [sys.executable, '-m', 'mmcontainer.demo.shapes', str(tmp_path / 'shapes'),
         '--num-train', '100000', '--workers', str(workers)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=unmeasured,
        start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob('.shapes.tmp-*/new/train/*.jpg')):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to parent and workers
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == 'interrupted: nothing was written'
    assert 'Traceback' not in errors
    assert list(tmp_path.iterdir()) == []


def test_a_killed_worker_is_said(tmp_path, monkeypatch):
    """As a system without memory does; it must not be waited for."""
    monkeypatch.setattr(generate, 'plan_scene', lambda *_: os.kill(os.getpid(), 9))
    with pytest.raises(UserError, match='One of 2 processes that draw pictures was killed'):
        generate_shapes(tmp_path / 'shapes', PARAMS, num_workers=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name, value', [
    ('num_train', 0), ('num_val', -1), ('size', 63), ('size', 4096), ('seed', -1), ('seed', 2**32),
    ('num_train', 1.5), ('num_train', True), ('size', '128')
])
def test_bad_parameters(name, value):
    with pytest.raises(ValueError, match=f'{name} must be an integer from .* to .*, but it is'):
        ShapesParams(**{name: value})


def test_bad_number_of_workers(tmp_path):
    with pytest.raises(ValueError, match='num_workers must be a positive integer'):
        generate_shapes(tmp_path / 'shapes', PARAMS, num_workers=0)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, monkeypatch, capsys):
    """The first run is a process, the others call its main function."""
    options = ['--num-train', '2', '--num-val', '1', '--size', '64', '--seed', '3']
    result = subprocess.run(
        [sys.executable, '-m', 'mmcontainer.demo.shapes', 'deep/down/shapes', *options],
        capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    manifest = json.loads((tmp_path / 'deep/down/shapes/manifest.json').read_text())
    assert manifest['params'] == dict(num_train=2, num_val=1, size=64, seed=3)
    monkeypatch.chdir(tmp_path)
    assert main(['deep/down/shapes', *options]) == 0
    assert capsys.readouterr().out.strip().endswith('there already')
    assert main(['deep/down/shapes', *options[:-1], '4']) == 1
    assert capsys.readouterr().err.startswith('error: ')
