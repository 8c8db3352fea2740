"""Names in timm's CoAtNet checkpoints (``coatnet_*`` and ``coatnet_*_rw``, with bias tables)."""
import re
from collections.abc import Mapping

from torch import Tensor

from .key_table import KeyMismatchError, KeyTable

_TABLE = re.compile(r'(.+\.attn)\.rel_pos\.relative_position_bias_table')
_INDEX = '.attn.rel_pos.relative_position_index'  # a constant that older versions store
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
    the projection to queries, keys and values are sorted by what they are, not by head.

    Args:
        name (str): Name of the source.
    """

    def __init__(self, name: str):
        super().__init__(name, _ROWS)

    def convert(self, state_dict: Mapping[str, Tensor], reverse: bool = False) -> dict[str, Tensor]:
        """See :meth:`KeyTable.convert` and the class.

        Raises:
            KeyMismatchError: Also for ``reverse``.
        """
        if reverse:
            raise KeyMismatchError(
                f"Source {self.name!r} can only be read: timm's names depend on its options.")
        heads = {match[1]: value.shape[1] for key, value in state_dict.items()
                 if (match := _TABLE.fullmatch(key))}
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
        return super().convert(prepared)

    def rename(self, keys, reverse: bool = False):
        """See :meth:`KeyTable.rename`; constants are left out."""
        return super().rename([key for key in keys if not key.endswith(_INDEX)], reverse)


def _to_map(table: Tensor) -> Tensor:
    size = round(len(table)**0.5)
    if size**2 != len(table):
        raise KeyMismatchError(f'A table of {len(table)} relative positions is not square: timm '
                               'changed its size for other images. Use the original checkpoint.')
    return table.T.unflatten(1, (size, size)).contiguous()


TIMM_COATNET = TimmTable('timm-coatnet')
