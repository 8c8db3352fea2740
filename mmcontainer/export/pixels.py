"""From the pixels of a decoded image to the input of a backbone, inside the graph."""
from typing import NamedTuple, Union

import torch
import torch.nn.functional as F
from mmdet.models.data_preprocessors import DetDataPreprocessor
from torch import Tensor, nn

from ..errors import UserError

# An int, or a torch.SymInt while a graph of any size is recorded.
Side = Union[int, torch.SymInt]


class Size(NamedTuple):
    """Sizes of the images of a batch in pixels.

    Attributes:
        height, width: As given.
        padded_height, padded_width: As the backbone sees them.
    """
    height: Side
    width: Side
    padded_height: Side
    padded_width: Side

    def limits(self, like: Tensor) -> Tensor:
        """(width, height, width, height), what the coordinates of a box (x1, y1, x2, y2) end at."""
        return torch.stack([torch.scalar_tensor(side, dtype=like.dtype, device=like.device)
                            for side in (self.width, self.height)] * 2)


class Pixels(nn.Module):
    """Puts the channels in order, normalises, and pads right and below to the stride.

    Args:
        preprocessor (DetDataPreprocessor): Of the detector.

    Raises:
        UserError: If it is of another class, which may do something else.
    """

    def __init__(self, preprocessor: nn.Module):
        super().__init__()
        if type(preprocessor) is not DetDataPreprocessor:
            raise UserError(f'data_preprocessor is a {type(preprocessor).__name__}; only '
                            'DetDataPreprocessor can be exported.')
        self.divisor = preprocessor.pad_size_divisor
        self.pad_value = preprocessor.pad_value
        # Loaders give MMDetection BGR; the file is given RGB.
        self.is_bgr = not preprocessor._channel_conversion
        self.normalises = preprocessor._enable_normalize
        if self.normalises:
            self.register_buffer('mean', preprocessor.mean.clone(), persistent=False)
            self.register_buffer('std', preprocessor.std.clone(), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Size]:
        """Prepare images (B, H, W, 3), uint8 in RGB; returns (B, 3, H', W') and the sizes."""
        height, width = images.shape[1:3]
        x = images.permute(0, 3, 1, 2).float()
        if self.is_bgr:
            x = x.flip(1)
        if self.normalises:
            x = (x - self.mean) / self.std
        # Always padded by as much as can be needed, and cut: how much is needed is no branch then.
        # Sides are rounded up without negative numbers, whose division ONNX rounds differently.
        most = self.divisor - 1
        size = Size(height, width, *((side + most) // self.divisor * self.divisor
                                     for side in (height, width)))
        if most:
            x = F.pad(x, (0, most, 0, most), value=self.pad_value)
            x = x[:, :, :size.padded_height, :size.padded_width]
        return x, size
