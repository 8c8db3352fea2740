"""The backbones inside the same RetinaNet: time, memory and the share of the matrix speed.

    python -m benchmarks.detectors --sizes 800x1333 --batches 1 8 --dtypes float32 bfloat16
    python -m benchmarks.detectors --passes 'training step' --batches 2 --sizes 512

Images come as the data preprocessor of MMDetection hands them on: padded to multiples of 32.
Inference goes up to the raw predictions; decoding and suppression cost the same with any backbone.
"""
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmcontainer.export.graph import DetectorGraph, write_detector

from .models import build_detector
from .networks import Suite, Workload, main

OBJECTS, CLASSES = 8, 80
DIVISOR = 32


def padded(size: tuple[int, int]) -> tuple[int, ...]:
    """Size of an image with its padding."""
    return tuple(-(-length // DIVISOR) * DIVISOR for length in size)


def make_sample(size: tuple[int, int], generator: torch.Generator) -> DetDataSample:
    """Random ground truth: boxes of a tenth to a half of the image's width and height."""
    height, width = size
    low = torch.rand(OBJECTS, 2, generator=generator) * 0.5
    extent = torch.rand(OBJECTS, 2, generator=generator) * 0.4 + 0.1
    boxes = torch.cat([low, low + extent], dim=1) * torch.tensor([width, height, width, height])
    labels = torch.randint(CLASSES, (OBJECTS, ), generator=generator)
    sample = DetDataSample(metainfo=dict(
        img_shape=size, ori_shape=size, pad_shape=padded(size), batch_input_shape=padded(size),
        scale_factor=(1., 1.)))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
    return sample


def make_inputs(work: Workload, device: torch.device) -> tuple[Tensor, list[DetDataSample]]:
    """Images (B, 3, H, W) and their data samples."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(work.batch, 3, *padded(work.size), generator=generator)
    samples = [make_sample(work.size, generator) for _ in range(work.batch)]
    return images.to(device), [sample.to(device) for sample in samples]


def infer(detector: nn.Module, images: Tensor, samples: list[DetDataSample]) -> None:
    """Raw predictions."""
    detector(images, samples, mode='tensor')


def loss(detector: nn.Module, images: Tensor, samples: list[DetDataSample]) -> Tensor:
    """The loss that is trained."""
    return detector.parse_losses(detector(images, samples, mode='loss'))[0]


def deployed(name: str) -> DetectorGraph:
    """What a file of a detector computes: from pixels (uint8) to boxes and scores of all anchors.

    The suppression behind it is the same in every runtime.
    """
    return DetectorGraph(build_detector(name, deploy=True), with_nms=False).eval()


def export(name: str, work: Workload, path: Path) -> np.ndarray:
    """Write a detector as a file; gives the images for it."""
    size = padded(work.size)
    write_detector(deployed(name), str(path), dict(size=size))
    return np.random.RandomState(0).randint(256, size=(work.batch, *size, 3), dtype=np.uint8)


SUITE = Suite('detectors', build_detector, make_inputs, infer, loss, padded, export, deployed)

if __name__ == '__main__':
    main(SUITE, sizes=('800x1333', ))
