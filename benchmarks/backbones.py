"""Backbones side by side: time, memory and the share of the machine's matrix speed.

    python -m benchmarks.backbones --sizes 224 800x1333 --batches 1 8 --dtypes float32 bfloat16
    python -m benchmarks.backbones --passes 'training step' --batches 2 --sizes 512

Networks get images as a data preprocessor makes them (float32, NCHW) and give their four maps.
"""
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmcontainer.cli.export import export_backbone

from .models import build_backbone
from .networks import Suite, Workload, main


def make_inputs(work: Workload, device: torch.device) -> tuple[Tensor]:
    """Images (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(work.batch, 3, *work.size, generator=generator).to(device), )


def infer(backbone: nn.Module, images: Tensor) -> None:
    """A forward pass."""
    backbone(images)


def loss(backbone: nn.Module, images: Tensor) -> Tensor:
    """A scalar that depends on all maps and costs little itself."""
    return sum(maps.float().mean() for maps in backbone(images))


def export(name: str, work: Workload, path: Path) -> np.ndarray:
    """Write a backbone of this package as a file; gives the images for it."""
    images, = make_inputs(work, torch.device('cpu'))
    export_backbone(build_backbone(name, deploy=True), path, work.size)
    return images.numpy()


SUITE = Suite('backbones', build_backbone, make_inputs, infer, loss, export=export,
              deployed=partial(build_backbone, deploy=True))

if __name__ == '__main__':
    main(SUITE, sizes=('224', '800x1333'))
