"""Writes a graph as an ONNX file, with what a program must know about it."""
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..torch_compat import recording_for_onnx
from .graph import DetectorGraph
from .suppression import nms_mask_onnx

#: The key of the ONNX file's metadata under which its JSON is.
METADATA_KEY = 'mmcontainer'
# (height, width) of the example images of a graph of any size. No map may have one row or column,
# not even at stride 128: what PyTorch records then is right for one alone.
_EXAMPLE_SIZE = (736, 992)


@contextmanager
def _ready_to_record() -> Iterator[None]:
    """Context without what cannot be recorded, and without messages of libraries to themselves."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # an operator that has no ONNX form
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad(), recording_for_onnx():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _rename_sizes(model) -> None:
    """Call the open sizes batch, height and width; PyTorch's names are s34 and the like."""
    names = {str(dim.value): name for dim, name in zip(
        model.graph.inputs[0].shape, ('batch', 'height', 'width')) if not isinstance(dim, int)}

    def rename(value) -> None:
        for i, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int) and dim.value is not None:
                value.shape[i] = re.sub(r'\bs\d+\b', lambda match: names.get(match[0], match[0]),
                                        dim.value)

    values = [*model.graph.inputs, *(out for node in model.graph.all_nodes()
                                     for out in node.outputs)]
    for value in values:
        if value.shape is not None and not value.shape.frozen:
            rename(value)


def write_onnx(graph: DetectorGraph, path: str, metadata: dict[str, Any], opset: int = 18) -> None:
    """Write an ONNX file for any batch.

    Args:
        graph (DetectorGraph): In evaluation mode, on the CPU.
        path (str): File to write.
        metadata (dict): What is stored as JSON under :data:`METADATA_KEY`. Its ``size`` is the
            (height, width) of the only images that the file takes; None is any.
        opset (int): Version of the ONNX operator set.
    """
    dynamic = torch.export.Dim.DYNAMIC
    sides = {} if metadata['size'] else {1: dynamic, 2: dynamic}
    images = torch.zeros(2, *(metadata['size'] or _EXAMPLE_SIZE), 3, dtype=torch.uint8)
    with _ready_to_record():
        # First by itself: inside of torch.onnx.export MMDetection takes ways that no longer work.
        program = torch.export.export(
            graph, (images, ), dynamic_shapes={'images': {0: dynamic, **sides}}, strict=False)
        onnx_program = torch.onnx.export(
            program, dynamo=True, opset_version=opset, verbose=False, input_names=['images'],
            output_names=list(graph.output_names),
            custom_translation_table={torch.ops.mmcontainer.nms_mask.default: nms_mask_onnx})
    model = onnx_program.model
    _rename_sizes(model)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # among others, paths of this machine
    model.metadata_props.clear()
    model.metadata_props[METADATA_KEY] = json.dumps(metadata)
    onnx_program.save(path)
