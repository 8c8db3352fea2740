"""Names in timm's CoAtNet checkpoints (``coatnet_*`` and ``coatnet_*_rw``, with bias tables).

timm trained them on pixels (p - 127.5) / 127.5. With mean m and deviation s of a channel of this
project's configs, our models see x = (p - m) / s, so that timm's input is s / 127.5 times
x - (127.5 - m) / s. The first convolution takes the factor into its weights. The difference becomes
the stem's ``input_shift`` and not a bias of the convolution: the zeros around the image then stand
for the same grey as in timm, and outputs are equal up to the borders.
"""
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .key_table import KeyMismatchError, KeyTable

_TABLE = re.compile(r'(.+\.attn)\.rel_pos\.relative_position_bias_table')
_INDEX = '.attn.rel_pos.relative_position_index'  # a constant that older versions store
# Mean and standard deviation of pixels from 0 to 255: timm's in every channel, and those of our
# configs, RGB.
_TIMM_PIXELS = 127.5
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_FIRST_CONV, _SHIFT = 'stem.conv1.weight', 'stem.input_shift'
# Batch norms in attention blocks: the one variant that has them was trained on other pixels.
_BATCH_NORM = re.compile(r'(.+)\.norm1(\.norm)?\.running_mean')
_BLOCK = {
    'shortcut.expand.*': 'shortcut.1.*', 'pre_norm.*': 'pre_norm.*',
    'conv1_1x1.*': 'conv1.*', 'conv2_kxk.*': 'conv2.*', 'conv3_1x1.*': 'conv3.*',
    'se.*': 'gate.*', 'se_early.*': 'gate.*',
    # Where an attention block gets smaller, timm keeps norm and pooling together.
    'norm1.norm.*': 'norm1.*', 'norm1.*': 'norm1.*', 'norm2.*': 'norm2.*',
    'attn.rel_pos.relative_position_bias_table': 'attn.table',
    'attn.qkv.*': 'attn.qkv.*', 'attn.proj.*': 'attn.proj.*', 'mlp.*': 'mlp.*',
}
_ROWS = {'stem.*': 'stem.*', 'norm.*': 'norm.*', 'head.*': 'head.*',
         **{f'stages.#.blocks.#.{timm}': f'stages.#.#.{ours}' for timm, ours in _BLOCK.items()}}


class TimmTable(KeyTable):
    """Renaming of timm's CoAtNets; for reading only, since names depend on timm's options.

    Tables of relative positions (offsets, heads) become (heads, 2H - 1, 2W - 1), and the rows of
    the projection to queries, keys and values are sorted by what they are, not by head. The first
    convolution is changed to images normalised with ImageNet's statistics, see the module.

    Args:
        name (str): Name of the source.
    """

    def __init__(self, name: str):
        super().__init__(name, _ROWS)

    def convert(self, state_dict: Mapping[str, Tensor], reverse: bool = False) -> dict[str, Tensor]:
        """See :meth:`KeyTable.convert` and the class.

        Raises:
            KeyMismatchError: Also for ``reverse``, for images that are not RGB, and for batch norms
                in attention blocks.
        """
        if reverse:
            raise KeyMismatchError(
                f"Source {self.name!r} can only be read: timm's names depend on its options.")
        heads = {match[1]: value.shape[1] for key, value in state_dict.items()
                 if (match := _TABLE.fullmatch(key))}
        _check_norms(state_dict, heads)
        prepared = {}
        for key, value in state_dict.items():
            if key.endswith(_INDEX):
                continue
            block = key.rpartition('.qkv.')[0]
            if _TABLE.fullmatch(key):
                value = _to_map(value)
            elif block in heads:
                value = value.unflatten(0, (heads[block], 3, -1)).transpose(0, 1).flatten(0, 2)
            prepared[key] = value
        converted = super().convert(prepared)
        if _FIRST_CONV in converted:
            converted[_FIRST_CONV], converted[_SHIFT] = _to_imagenet_pixels(converted[_FIRST_CONV])
        return converted

    def describe(self, state_dict: Mapping[str, Tensor], reverse: bool = False) -> list[str]:
        """Return what :meth:`convert` does with each entry, one line each."""
        lines = super().describe(state_dict, reverse)
        if _FIRST_CONV in state_dict:
            lines.append(f"{_FIRST_CONV} scaled, and {_SHIFT} added: timm's mean and standard "
                         "deviation of pixels are 0.5, this project's are ImageNet's")
        return lines

    def rename(self, keys, reverse: bool = False):
        """See :meth:`KeyTable.rename`; constants are left out."""
        return super().rename([key for key in keys if not key.endswith(_INDEX)], reverse)


def _to_map(table: Tensor) -> Tensor:
    size = round(len(table)**0.5)
    if size**2 != len(table):
        raise KeyMismatchError(f'A table of {len(table)} relative positions is not square: timm '
                               'changed its size for other images. Use the original checkpoint.')
    return table.T.unflatten(1, (size, size)).contiguous()


def _to_imagenet_pixels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (C, 3, 3, 3) of the first convolution, and shift (3, ), for ImageNet's statistics."""
    if weight.shape[1] != len(_MEAN):
        raise KeyMismatchError(
            f'{_FIRST_CONV} is for images of {weight.shape[1]} channels. Only for RGB is it known '
            "how timm's pixels and this project's are normalised.")
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (_MEAN, _STD))
    scaled = weight.double() * (std / _TIMM_PIXELS)[:, None, None]
    return scaled.to(weight.dtype), ((_TIMM_PIXELS - mean) / std).to(weight.dtype)


def _check_norms(state_dict: Mapping[str, Tensor], attentions: Mapping[str, int]) -> None:
    found = [key for key in state_dict if (match := _BATCH_NORM.fullmatch(key))
             and f'{match[1]}.attn' in attentions]
    if found:
        raise KeyMismatchError(
            f"{found[0]}: attention blocks of this package have layer norms, those of timm's "
            'coatnet_bn models batch norms. They do not fit.')


TIMM_COATNET = TimmTable('timm-coatnet')
