"""Depth-wise convolution as a module."""
from torch import Tensor, nn

from ..ops import depthwise_conv2d


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` of odd size, one kernel per channel, with zero padding of half the kernel.

    Same numbers and parameters; see :func:`mmcontainer.ops.depthwise_conv2d`.

    Args:
        channels (int): Channels C of input and output.
        kernel_size (int): Odd size of the kernels.
        stride (int): Stride.
        bias (bool): Learn an offset per channel.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1, bias: bool = True):
        super().__init__(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels,
                         bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0])
