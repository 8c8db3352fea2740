"""Transformer block of CoAtNet: attention with a bias per relative position."""
from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..ops import biased_attention, merge_heads, relative_attention, relative_bias
from ..ops.autograd import needs_deterministic_gradient
from ..torch_compat import is_exporting
from .map_norm import MapNorm
from .mbconv import PooledShortcut, build_pool
from .mlp import ConvMlp


def _bicubic_weights(old: int, new: int, like: Tensor) -> Tensor:
    """Weights of bicubic resizing of a line, (new, old): what it makes of single ones."""
    lines = torch.eye(old, dtype=like.dtype, device=like.device)[None, None]
    return F.interpolate(lines, (new, old), mode='bicubic', align_corners=False)[0, 0]


class RelativeAttention(BaseModule):
    """Multi-head self-attention of a map, with a learned bias for every offset of positions.

    The table belongs to one grid; for another it is resized bicubically (as timm does), so that the
    largest offsets stay the largest.

    Args:
        in_channels (int): Channels of the input.
        embed_dims (int): Channels of the output.
        grid_size (Sequence[int]): (H, W) of the map that the table belongs to.
        head_dims (int): Channels of a head.
        expand_last (bool): Heads share the channels of the input, not of the output.
        window_size (int, optional): Attend within windows of this size; the map is padded to whole
            windows, and padding is not attended to.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: If the channels are no multiple of ``head_dims``.

    Shapes: (B, in_channels, H, W) -> (B, embed_dims, H, W).
    """

    def __init__(self,
                 in_channels: int,
                 embed_dims: int,
                 grid_size: Sequence[int],
                 head_dims: int = 32,
                 expand_last: bool = False,
                 window_size: Optional[int] = None,
                 init_cfg=None):
        super().__init__(init_cfg)
        dims = in_channels if expand_last else embed_dims
        if dims % head_dims:
            raise ValueError(f'{dims} channels cannot be shared among heads of {head_dims}.')
        self.num_heads = dims // head_dims
        self.window_size = window_size
        self.qkv = nn.Conv2d(in_channels, 3 * dims, 1)
        self.table = nn.Parameter(
            torch.zeros(self.num_heads, 2 * grid_size[0] - 1, 2 * grid_size[1] - 1))
        self.proj = nn.Conv2d(dims, embed_dims, 1)

    def resized_table(self, grid_size: Sequence[int]) -> Tensor:
        """Table (M, 2H - 1, 2W - 1) for a grid (H, W)."""
        size = tuple(2 * length - 1 for length in grid_size)
        if not torch.jit.is_tracing() and size == tuple(self.table.shape[1:]):
            return self.table
        if needs_deterministic_gradient():
            rows, columns = (_bicubic_weights(old, new, self.table)
                             for old, new in zip(self.table.shape[1:], size))
            return rows @ self.table @ columns.T
        return F.interpolate(self.table[None], size, mode='bicubic', align_corners=False)[0]

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        qkv = self.qkv(x)
        if self.window_size is None:
            tokens = self._split_heads(qkv)
            out = relative_attention(*tokens, self.resized_table(size), size)
            return self.proj(merge_heads(out, *size))
        return self.proj(self._attend_in_windows(qkv))

    def _split_heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """(B, 3 * M * D, H, W) -> three times (B, M, N, D)."""
        # Fused attention needs the channels of a position together (in channels_last, no copy).
        tokens = qkv.flatten(2).transpose(1, 2).contiguous().unflatten(-1, (3, self.num_heads, -1))
        return tokens.permute(2, 0, 3, 1, 4).unbind(0)

    def _attend_in_windows(self, qkv: Tensor) -> Tensor:
        batch, _, height, width = qkv.shape
        window = self.window_size
        rows, columns = ((side + window - 1) // window for side in (height, width))
        grid = (rows, window, columns, window)
        # A graph of any size cannot ask whether there is padding.
        is_padded = is_exporting() or (height, width) != (rows * window, columns * window)
        qkv = F.pad(qkv, (0, columns * window - width, 0, rows * window - height))
        qkv = qkv.unflatten(3, grid[2:]).unflatten(2, grid[:2])
        qkv = qkv.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # windows are the batch
        tokens = self._split_heads(qkv)
        bias = relative_bias(self.resized_table((window, window)), (window, window))
        bias = bias.to(qkv.dtype)[None]
        if is_padded:
            bias = (bias + self._padding_bias(height, width, grid, bias))[None].expand(
                batch, -1, -1, -1, -1).flatten(0, 1)
        out = biased_attention(*tokens, bias)
        out = merge_heads(out, window, window).unflatten(0, (batch, rows, columns))
        out = out.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        return out[..., :height, :width]

    @staticmethod
    def _padding_bias(height: int, width: int, grid: Sequence[int], like: Tensor) -> Tensor:
        """-inf for padded keys, (windows, 1, 1, positions)."""
        rows, window, columns, _ = grid
        valid_y = torch.arange(rows * window, device=like.device) < height
        valid_x = torch.arange(columns * window, device=like.device) < width
        valid = (valid_y[:, None] & valid_x).view(grid).transpose(1, 2).reshape(
            rows * columns, 1, 1, window * window)
        return like.new_zeros(valid.shape).masked_fill(~valid, float('-inf'))


class RelativeBlock(BaseModule):
    """``x + attention(LN(x))``, then ``x + MLP(LN(x))``; with stride 2 both are pooled first.

    Args:
        in_channels (int): Channels of the input.
        embed_dims (int): Channels of the output.
        grid_size (Sequence[int]): (H, W) of the output that the table of biases belongs to.
        stride (int): 1 or 2; with 2 the shortcut is pooled and projected.
        pool (str): Pooling, see :func:`mmcontainer.layers.mbconv.build_pool`.
        shortcut_bias (bool): Bias of the shortcut's projection.
        drop_path_rate (float): Probability of dropping a branch.
        init_cfg (dict, optional): Initialisation config.
        kwargs: Arguments of :class:`RelativeAttention`.

    Shapes: (B, in_channels, H, W) -> (B, embed_dims, ceil(H / stride), ceil(W / stride)).
    Source: arXiv 2106.04803, section 2 and appendix A.1.
    """

    def __init__(self,
                 in_channels: int,
                 embed_dims: int,
                 grid_size: Sequence[int],
                 stride: int = 1,
                 pool: str = 'max2',
                 shortcut_bias: bool = True,
                 drop_path_rate: float = 0.,
                 init_cfg=None,
                 **kwargs):
        super().__init__(init_cfg)
        self.shortcut, self.down = nn.Identity(), nn.Identity()
        if stride == 2:
            self.shortcut = PooledShortcut(in_channels, embed_dims, pool, shortcut_bias)
            self.down = build_pool(pool)
        self.norm1 = MapNorm(in_channels, eps=1e-6)
        self.attn = RelativeAttention(in_channels, embed_dims, grid_size, **kwargs)
        self.norm2 = MapNorm(embed_dims, eps=1e-6)
        self.mlp = ConvMlp(embed_dims, 4)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.shortcut(x) + self.drop_path(self.attn(self.down(self.norm1(x))))
        return x + self.drop_path(self.mlp(self.norm2(x)))
