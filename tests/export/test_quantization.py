"""What is quantised, what is not, and what the file says about it."""
import json

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
from toy_onnx import INFO, write_detector  # noqa: E402

from mmcontainer.export.quantization import (  # noqa: E402
    layers_with_weights,
    milliseconds,
    quantize_file,
)
from mmcontainer.machine import lacks_int8_products  # noqa: E402


@pytest.fixture
def pictures():
    """Inputs of different sizes, with a grey rectangle each."""
    images = [np.zeros((1, 64 + 8 * i, 80, 3), np.uint8) for i in range(4)]
    for i, image in enumerate(images):
        cv2.rectangle(image[0], (10, 20), (40 + i, 50), (200, 200, 200), -1)
    return images


# This CPU's: with 8 some would cut off sums of products.
BITS = 7 if lacks_int8_products() else 8


def run(path, image):
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return session.run(None, {'images': image})


def test_only_layers_with_weights_are_quantised(tmp_path, pictures):
    source, target = tmp_path / 'toy.onnx', tmp_path / 'int8.onnx'
    write_detector(source)
    quantize_file(str(source), str(target), pictures, weight_bits=BITS)
    file = onnx.load(str(target))
    onnx.checker.check_model(file)
    by_output = {name: node for node in file.graph.node for name in node.output}
    conv, = (node for node in file.graph.node if node.op_type == 'Conv')
    assert [by_output[name].op_type for name in conv.input[:2]] == ['DequantizeLinear'] * 2
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    weight, scale = (stored[name] for name in by_output[conv.input[1]].input[:2])
    assert weight.dtype == np.int8 and scale.shape == (2, )  # a scale for every output channel
    # Coordinates and scores are computed as before.
    for expected, found in zip(run(source, pictures[3]), run(target, pictures[3])):
        assert np.array_equal(expected, found)


@pytest.mark.parametrize(('bits', 'most'), [(8, 127), (7, 64)])
def test_weights_of_seven_bits_leave_room_for_sums(bits, most, tmp_path, pictures):
    source, target = tmp_path / 'toy.onnx', tmp_path / 'int8.onnx'
    write_detector(source)
    quantize_file(str(source), str(target), pictures, weight_bits=bits)
    stored = [onnx.numpy_helper.to_array(tensor)
              for tensor in onnx.load(str(target)).graph.initializer]
    weights, = (tensor for tensor in stored if tensor.dtype == np.int8 and tensor.ndim == 4)
    assert abs(abs(weights.astype(int)).max() - most) <= 1


def test_the_metadata_stay_and_say_that_it_is_quantised(tmp_path, pictures):
    source, target = tmp_path / 'toy.onnx', tmp_path / 'int8.onnx'
    write_detector(source)
    quantize_file(str(source), str(target), pictures)
    properties = {entry.key: entry.value for entry in onnx.load(str(target)).metadata_props}
    assert list(properties) == ['mmcontainer']
    info = json.loads(properties['mmcontainer'])
    assert info.pop('quantization') == dict(weights='int8', weight_bits=8, activations='uint8',
                                            images=4)
    assert info['versions'].pop('onnxruntime') == onnxruntime.__version__
    assert info == INFO


def test_products_of_activations_are_left_alone():
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    nodes = [node('MatMul', ['x', 'w'], ['linear'], 'linear'),
             node('MatMul', ['linear', 'x'], ['attention'], 'attention'),
             node('Add', ['attention', 'w'], ['y'], 'add')]
    graph = onnx.helper.make_graph(
        nodes, 'g', [value('x', 1, [3, 3])], [value('y', 1, [3, 3])],
        [onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), 'w')])
    assert layers_with_weights(onnx.helper.make_model(graph)) == ['linear']


def test_time_is_measured_for_every_file(tmp_path, pictures):
    paths = [str(tmp_path / name) for name in ('a.onnx', 'b.onnx')]
    for path in paths:
        write_detector(path)
    times = milliseconds(paths, pictures)
    assert len(times) == 2 and all(0 < taken < 1000 for taken in times)
