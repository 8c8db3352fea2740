"""Writes a module as an ONNX file; it does not need MMDetection."""
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn

from ..torch_compat import recording_for_onnx

#: Where the metadata of a detector's file have JSON of our own.
METADATA_KEY = 'mmcontainer'


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


def _rename_sizes(model, open_sizes: Mapping[int, str]) -> None:
    """Call the open sizes by their names; PyTorch's are s34 and the like."""
    shape = model.graph.inputs[0].shape
    names = {str(shape[i].value): name for i, name in open_sizes.items()
             if not isinstance(shape[i], int)}

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


def write_onnx(module: nn.Module, images: Tensor, path: str, output_names: Sequence[str],
               open_sizes: Mapping[int, str], metadata: Optional[Mapping[str, str]] = None,
               opset: int = 18, translations: Optional[Mapping[Any, Any]] = None) -> None:
    """Write an ONNX file with the input ``images``.

    Args:
        module (nn.Module): In evaluation mode, on the CPU; takes a tensor.
        images (Tensor): An example. No map that the module makes of it may have one row or column
            where its size is open: what PyTorch records then is right for one alone.
        path (str): File to write.
        output_names (Sequence[str]): Of what the module returns.
        open_sizes (Mapping[int, str]): Dimensions of the images that may have any size in the file,
            and their names.
        metadata (Mapping[str, str], optional): Of the file.
        opset (int): Version of the ONNX operator set.
        translations (Mapping, optional): Functions of onnxscript for operators of our own.
    """
    sizes = dict.fromkeys(open_sizes, torch.export.Dim.DYNAMIC)
    with _ready_to_record():
        # First by itself: inside of torch.onnx.export MMDetection takes ways that no longer work.
        program = torch.export.export(module, (images, ), dynamic_shapes=(sizes, ), strict=False)
        onnx_program = torch.onnx.export(
            program, dynamo=True, opset_version=opset, verbose=False, input_names=['images'],
            output_names=list(output_names), custom_translation_table=dict(translations or {}))
    model = onnx_program.model
    _rename_sizes(model, open_sizes)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # among others, paths of this machine
    model.metadata_props.clear()
    model.metadata_props.update(metadata or {})
    onnx_program.save(path)
