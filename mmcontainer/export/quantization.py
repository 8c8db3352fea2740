"""Post-training quantisation of an ONNX file: its layers with weights compute in 8-bit integers.

Those are convolutions and linear layers. All others stay as they are: products of activations, in
attention; softmax, norms and position encodings; the post-processing, whose coordinates need more
than 256 steps.
"""
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Optional

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from .onnx_file import METADATA_KEY

# Not ConvTranspose, for which onnxruntime has no 8-bit form on CPUs.
_WITH_WEIGHTS = ('Conv', 'Gemm', 'MatMul')


class _Images(CalibrationDataReader):
    """Inputs of the file, one after the other, as onnxruntime's calibration asks for them."""

    def __init__(self, images: Iterable[np.ndarray]):
        self._images = iter(images)

    def get_next(self) -> Optional[dict[str, np.ndarray]]:
        images = next(self._images, None)
        return None if images is None else {'images': images}


def layers_with_weights(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply activations by weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in model.graph.node
            if node.op_type in _WITH_WEIGHTS and node.input[1] in weights]


def quantize_file(source: str, target: str, images: Sequence[np.ndarray],
                  weight_bits: int = 8) -> None:
    """Write a file whose layers with weights compute in int8.

    Weights are int8 with a scale for every output channel, activations uint8 with one scale each,
    from the smallest to the largest value that the layer has for the images. The file holds float
    operators between QuantizeLinear and DequantizeLinear, which runtimes put together.

    Args:
        source (str): A file of ``tools/export_onnx.py``.
        target (str): File to write.
        images (Sequence[np.ndarray]): Inputs of the file, (1, H, W, 3), uint8 in RGB.
        weight_bits (int): 8, or 7 for CPUs that cut off sums of 8-bit products
            (:func:`mmcontainer.machine.lacks_int8_products`).
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder, 'prepared.onnx'))
        # Folds norms into convolutions. Shapes are those that PyTorch recorded: onnxruntime's own
        # inference of symbols does not know all operators.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        # For this alone: MatMul would be quantised also without weights.
        nodes = layers_with_weights(onnx.load(prepared))
        quantize_static(
            prepared, target, _Images(images), quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_WITH_WEIGHTS), nodes_to_quantize=nodes, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax, reduce_range=weight_bits == 7)
    info = read_metadata(source)
    info['quantization'] = dict(weights='int8', weight_bits=weight_bits, activations='uint8',
                                images=len(images))
    info['versions'] = dict(info.get('versions', {}), onnxruntime=metadata.version('onnxruntime'))
    _write_metadata(target, info)


def read_metadata(path: str) -> dict[str, Any]:
    """What ``tools/export_onnx.py`` noted in a file; empty for a file of something else."""
    properties = onnx.load(path, load_external_data=False).metadata_props
    return json.loads({entry.key: entry.value for entry in properties}.get(METADATA_KEY, '{}'))


def _write_metadata(path: str, info: dict[str, Any]) -> None:
    """Put this in place of what onnxruntime left, which is about its own steps."""
    model = onnx.load(path)
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(info))
    onnx.save(model, path)


def milliseconds(paths: Sequence[str], images: Sequence[np.ndarray]) -> list[float]:
    """Median time of a file per image.

    The files take turns, so that whatever else the machine does slows all of them.

    Args:
        paths (Sequence[str]): ONNX files.
        images (Sequence[np.ndarray]): Inputs, (1, H, W, 3), uint8 in RGB.

    Returns:
        list[float]: For every file.
    """
    sessions = [onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
                for path in paths]
    for session in sessions:  # the first run of a size allocates memory
        session.run(None, {'images': images[0]})
    times = [[] for _ in sessions]
    for image in images:
        for session, taken in zip(sessions, times):
            start = time.perf_counter()
            session.run(None, {'images': image})
            taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]
