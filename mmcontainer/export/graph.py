"""A detector and its post-processing as one module, from pixels to detections, and its file."""
import json
from typing import Any

import torch
from mmdet.models.detectors import DETR, DeformableDETR, RetinaNet, TwoStageDetector
from torch import Tensor, nn

from ..errors import UserError
from .deformable import DeformableDetections
from .dense import DenseDetections
from .onnx_file import METADATA_KEY, write_onnx
from .pixels import Pixels
from .queries import QueryDetections
from .regions import RegionDetections
from .suppression import nms_mask_onnx

# (height, width) of the example images of a graph of any size: at stride 128, too, their maps have
# several rows and columns.
_EXAMPLE_SIZE = (736, 992)


def _head(model: nn.Module, with_nms: bool) -> nn.Module:
    if isinstance(model, RetinaNet):
        return DenseDetections(model, with_nms)
    if isinstance(model, TwoStageDetector):
        return RegionDetections(model, with_nms)
    if isinstance(model, (DETR, DeformableDETR)):
        if not with_nms:
            raise UserError(f'--no-nms: a {type(model).__name__} has no suppression to leave out.')
        return QueryDetections(model) if isinstance(model, DETR) else DeformableDetections(model)
    raise UserError(f'A {type(model).__name__} cannot be exported. --backbone-only exports its '
                    'backbone.')


class DetectorGraph(nn.Module):
    """What the ONNX file computes.

    Args:
        model (nn.Module): An MMDetection detector in evaluation mode, whose ``test_cfg`` holds
            thresholds and numbers of detections.
        with_nms (bool): Return detections; else boxes and scores of all candidates, for runtimes
            with non-maximum suppression of their own.

    Raises:
        UserError: If the detector, or a part of it, is of a kind that is not known here.

    Attributes:
        output_names (tuple[str]): Names of what :meth:`forward` returns.
    """

    def __init__(self, model: nn.Module, with_nms: bool = True):
        super().__init__()
        self.pixels = Pixels(model.data_preprocessor)
        self.head = _head(model, with_nms)
        self.output_names = self.head.output_names
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect objects in images (B, H, W, 3), uint8 in RGB.

        Returns:
            tuple[Tensor]: ``dets`` (B, K, 5): x1, y1, x2, y2 in pixels and score; ``labels``
            (B, K); of a detector with masks ``masks`` (B, K, 28, 28), probabilities within the
            boxes. Places without a detection have score 0 and label -1. Without NMS see the heads'
            modules.
        """
        x, size = self.pixels(images)
        return self.head(self.model.extract_feat(x), size)


def write_detector(graph: DetectorGraph, path: str, metadata: dict[str, Any],
                   opset: int = 18) -> None:
    """Write a detector as an ONNX file for any batch.

    Args:
        graph (DetectorGraph): In evaluation mode, on the CPU.
        path (str): File to write.
        metadata (dict): What is stored as JSON under :data:`METADATA_KEY`. Its ``size`` is the
            (height, width) of the only images that the file takes; None is any.
        opset (int): Version of the ONNX operator set.
    """
    size = metadata['size']
    write_onnx(graph, torch.zeros(2, *(size or _EXAMPLE_SIZE), 3, dtype=torch.uint8), path,
               graph.output_names, {0: 'batch'} if size else {0: 'batch', 1: 'height', 2: 'width'},
               {METADATA_KEY: json.dumps(metadata)}, opset,
               {torch.ops.mmcontainer.nms_mask.default: nms_mask_onnx})
