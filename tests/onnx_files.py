"""Small ONNX files that look like those of tools/export_onnx.py, and whose answers are known.

They find the same objects everywhere: boxes are shares of the image that they are given, and the
score of the first one is its mean brightness, so that it shows which pixels arrived.
"""
import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# x1, y1, x2, y2 as shares of the image; scores; labels. The last one is padding.
BOXES = np.array([[0.1, 0.2, 0.5, 0.6], [0.55, 0.3, 0.9, 0.95], [0, 0, 1, 1], [0, 0, 0, 0]], 'f')
SCORES = np.array([0, .75, .125, 0], 'f')  # the first one is replaced by the brightness
LABELS = np.array([1, 0, 2, -1])
CLASSES = ['bright', 'other $x', 'frame']
METADATA = dict(
    format=1, task='detection', classes=CLASSES, size=None, batch=None, score_thr=0.05,
    max_per_img=4, mask_thr=0.5, config='some.py', versions={'mmcontainer': '0.1.0'},
    weights='0' * 64,
    resize=dict(scale=[200, 120], keep_ratio=True, backend='cv2', interpolation='bilinear'))


def make_masks(count=4, size=28, seed=0):
    """Smooth probabilities, (count, size, size), float32."""
    noise = np.random.default_rng(seed).normal(size=(count, size + 7, size + 7))
    windows = np.lib.stride_tricks.sliding_window_view(noise, (8, 8), axis=(1, 2))
    return (1 / (1 + np.exp(-windows.sum(axis=(3, 4)) / 4))).astype(np.float32)


def write_detector(path, masks=False, outputs=('dets', 'labels'), **changes):
    """Write a file.

    Args:
        path (Path): The file.
        masks (bool): Whether it segments instances.
        outputs (tuple[str]): Names of its outputs, to write files that are wrong.
        changes: Of the metadata; ``metadata=None`` leaves it out.
    """
    metadata = {**METADATA, **changes}
    if masks:
        metadata['task'] = 'instance-segmentation'
        outputs = (*outputs, 'masks')
    batch = metadata['batch'] or 1
    height, width = metadata['size'] or ('height', 'width')

    def constant(name, value):
        return numpy_helper.from_array(np.asarray(value), name)

    def repeat(value):
        return np.repeat(np.asarray(value)[None], batch, axis=0)

    scores = repeat(SCORES[:, None])
    nodes = [
        helper.make_node('Cast', ['images'], ['pixels'], to=TensorProto.FLOAT),
        helper.make_node('ReduceMean', ['pixels', 'axes'], ['mean'], keepdims=1),  # B 1 1 1
        helper.make_node('Squeeze', ['mean', 'last'], ['mean3']),
        helper.make_node('Mul', ['mean3', 'first'], ['brightness']),  # B K 1
        helper.make_node('Add', ['brightness', 'scores'], ['all_scores']),
        helper.make_node('Shape', ['images'], ['shape'], start=1, end=3),
        helper.make_node('Gather', ['shape', 'xyxy'], ['sides']),
        helper.make_node('Cast', ['sides'], ['lengths'], to=TensorProto.FLOAT),
        helper.make_node('Mul', ['shares', 'lengths'], ['boxes']),
        helper.make_node('Concat', ['boxes', 'all_scores'], [outputs[0]], axis=2),
        helper.make_node('Identity', ['constant_labels'], [outputs[1]]),
    ]
    first = np.zeros((1, 4, 1), 'f')
    first[0, 0] = 1 / 255
    constants = [constant('axes', np.array([1, 2, 3])), constant('last', np.array([3])),
                 constant('first', first), constant('scores', scores),
                 constant('xyxy', np.array([1, 0, 1, 0])), constant('shares', repeat(BOXES)),
                 constant('constant_labels', repeat(LABELS).astype(np.int64))]
    results = [helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, [batch, 4, 5]),
               helper.make_tensor_value_info(outputs[1], TensorProto.INT64, [batch, 4])]
    if masks:
        nodes.append(helper.make_node('Identity', ['constant_masks'], ['masks']))
        constants.append(constant('constant_masks', repeat(make_masks())))
        results.append(helper.make_tensor_value_info('masks', TensorProto.FLOAT,
                                                     [batch, 4, 28, 28]))
    graph = helper.make_graph(
        nodes, 'detector', [helper.make_tensor_value_info(
            'images', TensorProto.UINT8, [metadata['batch'] or 'batch', height, width, 3])],
        results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    if changes.get('metadata', True) is not None:
        helper.set_model_props(model, {'mmcontainer': json.dumps(metadata)})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
