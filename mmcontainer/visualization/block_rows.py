"""What one position collects in every block of a backbone, whatever its family.

A backbone runs once for an image, and each block keeps the little from which any row of its
affinities can be built afterwards. No matrix is ever built as a whole.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..backbones import BaseBackbone
from ..layers import CotBlock, CotLayer, RelativeAttention
from .affinity import (
    AffinityRows,
    Mixture,
    Position,
    affinity_modules,
    build_rows,
    grid_of,
    list_mixtures,
)
from .network_input import NetworkInput


class BlockRows:
    """Rows of the affinities of one block, for the image that its backbone has seen last.

    Args:
        layer (str): Name of the block in its backbone.
        module (nn.Module): What mixes the positions there.
        stage (int): Stage it belongs to.
        stride (int): Pixels of the network's input along the side of a cell.

    Attributes:
        kept: What the block has kept of the image; None before any.
    """

    def __init__(self, layer: str, module: nn.Module, stage: int, stride: int):
        self.layer, self.module, self.stage, self.stride = layer, module, stage, stride
        self.kept: Any = None

    def watch(self) -> list[RemovableHandle]:
        """Keep what is needed whenever the backbone runs, until the handles are removed."""
        return [self.module.register_forward_pre_hook(self._keep)]

    def _keep(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.kept = args

    @property
    def grid_size(self) -> tuple[int, int]:
        """(h, w) of the block's grid for the image."""
        return grid_of(self.kept)

    def build(self, position: Position, image: NetworkInput) -> AffinityRows:
        """Build the rows of one position, the nearest one that the block sees.

        A click may lie in what the pipeline has cropped, or in the strip at the right or lower edge
        that fills no whole patch.
        """
        grid_size = self.grid_size
        x, y = image.geometry.to_input(position.place) // self.stride
        cell = np.clip((y, x), 0, np.array(grid_size) - 1).astype(int)
        return self._build(position, cell)

    def _build(self, position: Position, cell: np.ndarray) -> AffinityRows:
        raise NotImplementedError

    def _rows(self, position: Position, cell: np.ndarray, mixture: Mixture,
              maps: dict[str, np.ndarray], heads: int) -> AffinityRows:
        """Rows from maps (h, w) that are means of so many heads."""
        return AffinityRows(mixture, 'mean', (position, ), cell[None], self.stride,
                            {name: value[None] for name, value in maps.items()}, {},
                            dict.fromkeys(maps, heads))


class AggregationRows(BlockRows):
    """Of a block of the Container family, as :mod:`mmcontainer.visualization.affinity` builds them.

    Args:
        mixture (Mixture): The block.
        module (nn.Module): Its aggregation.
        stride (int): See :class:`BlockRows`.
    """

    def __init__(self, mixture: Mixture, module: nn.Module, stride: int):
        super().__init__(mixture.layer, module, mixture.stage, stride)
        self.mixture = mixture

    def _build(self, position, cell):
        if not self.mixture.has_matrix:
            return self._rows(position, cell, self.mixture, {}, 0)
        return build_rows(self.module, self.kept, self.mixture, self.stride, [position],
                          cell[None], ['mean'])[0]


class LocalRows(BlockRows):
    """Of a CoT layer: k x k weights of its own for each position; alpha is the mean of its p.

    Its static context is a convolution that mixes channels, which is no affinity. The values that
    the weights act on are a projection of the input, and their sum is normalised and activated.
    """

    def watch(self):
        self.kept = {}
        return [self.module.embed.register_forward_hook(self._keep_weights),
                self.module.se.register_forward_hook(self._keep_share)]

    def _keep_weights(self, module: nn.Module, args: tuple[Any, ...], weights: Tensor) -> None:
        # (B, channels * k * k, H, W), of which only the mean over the channels is kept.
        self.kept['weights'] = weights[0].unflatten(0, (self.module.weight_channels, -1)).mean(0)

    def _keep_share(self, module: nn.Module, args: tuple[Any, ...], logits: Tensor) -> None:
        share = (logits[0, ::2] - logits[0, 1::2]).sigmoid()  # as CotLayer.mix computes it
        self.kept['alpha'] = float(share.mean())

    @property
    def grid_size(self):
        return tuple(self.kept['weights'].shape[-2:])

    def _build(self, position, cell):
        size, (row, column) = self.module.kernel_size, cell
        alpha = self.kept['alpha']
        mixture = Mixture(
            self.layer, self.stage, alpha, 1 - alpha, learned=True,
            dynamic=f'window of {size} x {size}', static=f'channel-mixing {size} x {size} '
            'convolution', has_matrix=True)
        taps = self.kept['weights'][:, row, column].float().cpu().numpy().reshape(size, size)
        # The window reaches over the edges of the map, where there is nothing to collect.
        reach = size // 2
        padded = np.zeros(np.array(self.grid_size) + 2 * reach, np.float32)
        padded[row:row + size, column:column + size] = taps
        dynamic = padded[reach:-reach or None, reach:-reach or None]
        return self._rows(position, cell, mixture, dict(dynamic=dynamic),
                          self.module.weight_channels)


class RelativeRows(BlockRows):
    """Of CoAtNet's attention: softmax(q k) as dynamic, softmax(bias) as static, and of their sum.

    Both act inside of one softmax, so the two softmaxes by themselves are only for comparison.
    """

    @torch.no_grad()
    def _build(self, position, cell):
        attention, (x, ) = self.module, self.kept
        # The whole map, or the window that the position lies in; what sticks out is padding.
        window = attention.window_size
        size = (window, window) if window else self.grid_size
        top, left = cell // size * size
        inside = x[:1, :, top:top + size[0], left:left + size[1]]
        query, key, _ = attention.qkv(inside)[0].flatten(1).unflatten(
            0, (3, attention.num_heads, -1))
        height, width = inside.shape[-2:]
        row, column = cell - (top, left)
        content = torch.einsum('md,mdn->mn', query[..., row * width + column],
                               key) / query.shape[1]**0.5
        # The offset grows from key to query: along a row of keys it falls.
        table = attention.resized_table(size)[:, row:row + size[0], column:column + size[1]]
        bias = table.flip(1, 2)[:, :height, :width].flatten(1)
        maps = {}
        for name, logits in dict(dynamic=content, static=bias, mixed=content + bias).items():
            maps[name] = np.zeros(self.grid_size, np.float32)
            maps[name][top:top + height, left:left + width] = logits.float().softmax(-1).mean(
                0).view(height, width).cpu().numpy()
        where = f' in windows of {window} x {window}' if window else ''
        mixture = Mixture(self.layer, self.stage, None, None, learned=True,
                          dynamic=f'softmax of the content{where}',
                          static=f'softmax of the relative position{where}', has_matrix=True)
        return self._rows(position, cell, mixture, maps, attention.num_heads)


def find_blocks(backbone: nn.Module) -> list[BlockRows]:
    """Find the blocks of a backbone whose affinities can be looked at, in order.

    Returns:
        list[BlockRows]: Empty for a backbone of another package.
    """
    if not isinstance(backbone, BaseBackbone):
        return []
    modules = affinity_modules(backbone)
    if modules:
        return [AggregationRows(mixture, modules[mixture.layer], backbone.strides[mixture.stage])
                for mixture in list_mixtures(backbone)]
    names = {module: name for name, module in backbone.named_modules()}
    found = [_other_block(module, names, stage, stride)
             for stage, stride in enumerate(backbone.strides)
             for module in backbone.stage(stage).modules()]
    return [block for block in found if block is not None]


@contextmanager
def recording(backbone: nn.Module) -> Iterator[list[BlockRows]]:
    """Let a backbone's blocks keep what rows are built from, when it runs inside of the context.

    Args:
        backbone (nn.Module): In evaluation mode and training form.

    Yields:
        list[BlockRows]: Those that have run are ready for any position afterwards; behind the last
        stage that is asked for, none has, and ``kept`` is empty.
    """
    blocks = find_blocks(backbone)
    handles = [handle for block in blocks for handle in block.watch()]
    try:
        yield blocks
    finally:
        for handle in handles:
            handle.remove()


def _other_block(module: nn.Module, names: dict[nn.Module, str], stage: int,
                 stride: int) -> Optional[BlockRows]:
    if isinstance(module, CotBlock) and isinstance(module.conv2, CotLayer):
        # Pooling behind the layer: it still works on the grid of the stage before.
        return LocalRows(names[module], module.conv2, stage,
                         stride if module.after is None else stride // 2)
    if isinstance(module, RelativeAttention):
        return RelativeRows(names[module].rpartition('.')[0], module, stage, stride)
    return None
