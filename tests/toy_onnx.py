"""A detector of one bright rectangle, as an ONNX file of twenty nodes, and pictures for it.

It has a convolution, so it can be quantised, and needs no training: its AP is 1.
"""
import json

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAMES = ['ant', 'bee']
INFO = dict(
    format=1, task='detection', classes=NAMES, size=None, batch=None, score_thr=0., max_per_img=1,
    mask_thr=0.5, config='toy', versions=dict(onnx=onnx.__version__), weights='0' * 64,
    resize=dict(scale=[96, 96], keep_ratio=True, backend='cv2', interpolation='bilinear'))


def write_detector(path, range_of_other_channel=1., **info):
    """Write a file that finds a 'bee' where pixels are brighter than a half.

    Args:
        path (Path): File to write.
        range_of_other_channel (float): Of a second map, which only widens the range of the
            convolution: from 500 on, one step of uint8 is larger than the brightness.
        info: What the metadata say otherwise.
    """
    weight = np.full((2, 3, 1, 1), 1 / 3, np.float32)
    weight[1] *= range_of_other_channel
    constants = dict(
        weight=weight, white=np.float32(255), half=np.float32(0.5), first=np.array([0]),
        end=np.array([1]), axis=np.array([1]), one=np.float32(1), found=np.float32([[[0.9]]]),
        nowhere=np.float32([[0, 0, 0, 0, 0]]), bee=np.array([[1]]), none=np.array([[-1]]),
        rows=np.array([3]), columns=np.array([2]))
    node = helper.make_node
    nodes = [
        node('Cast', ['images'], ['float'], to=TensorProto.FLOAT),
        node('Div', ['float', 'white'], ['scaled']),
        node('Transpose', ['scaled'], ['maps'], perm=[0, 3, 1, 2]),
        node('Conv', ['maps', 'weight'], ['both'], 'conv'),
        node('Slice', ['both', 'first', 'end', 'axis'], ['brightness']),
        node('Greater', ['brightness', 'half'], ['is_object']),
        node('Cast', ['is_object'], ['object'], to=TensorProto.FLOAT)]
    for side, over in (('x', 'columns'), ('y', 'rows')):
        nodes += [
            node('ReduceMax', ['object', over], [f'{side}_line'], keepdims=0),  # B, 1, length
            node('ArgMax', [f'{side}_line'], [f'{side}_start'], axis=2),
            node('ArgMax', [f'{side}_line'], [f'{side}_end'], axis=2, select_last_index=1),
            node('Cast', [f'{side}_start'], [f'{side}1'], to=TensorProto.FLOAT),
            node('Cast', [f'{side}_end'], [f'{side}_last'], to=TensorProto.FLOAT),
            node('Add', [f'{side}_last', 'one'], [f'{side}2'])]
    nodes += [
        node('ReduceMax', ['object'], ['any'], keepdims=0),
        node('Greater', ['any', 'half'], ['is_any']),
        node('Concat', ['x1', 'y1', 'x2', 'y2', 'found'], ['box'], axis=2),
        node('Where', ['is_any', 'box', 'nowhere'], ['dets']),
        node('Where', ['is_any', 'bee', 'none'], ['labels'])]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, 'toy', [value('images', TensorProto.UINT8, ['batch', 'height', 'width', 3])],
        [value('dets', TensorProto.FLOAT, ['batch', 1, 5]),
         value('labels', TensorProto.INT64, ['batch', 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=10)
    model.metadata_props.add(key='mmcontainer', value=json.dumps({**INFO, **info}))
    onnx.save(model, str(path))


def write_pictures(folder, number=6):
    """Write pictures of a grey rectangle on black, and ``annotations.json``.

    Categories have another order in the file than in the detector, and ids with gaps. Pictures have
    different sizes, and are twice to three times as large as what the detector sees.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(number):
        height, width = (int(side) for side in rng.integers(192, 289, size=2))
        x, y = (int(side) for side in rng.integers(10, 60, size=2))
        w, h = (int(side) for side in rng.integers(60, 110, size=2))
        picture = np.zeros((height, width, 3), np.uint8)
        picture[y:y + h, x:x + w] = 200
        cv2.imwrite(str(folder / f'{index}.png'), picture)
        images.append(dict(id=10 + index, file_name=f'{index}.png', height=height, width=width))
        annotations.append(dict(id=100 + index, image_id=10 + index, category_id=3, iscrowd=0,
                                bbox=[x, y, w, h], area=w * h))
    categories = [dict(id=3, name='bee'), dict(id=8, name='ant'), dict(id=9, name='cat')]
    content = dict(images=images, annotations=annotations, categories=categories)
    target = folder / 'annotations.json'
    target.write_text(json.dumps(content))
    return target
