"""Names in the official checkpoints of SMCA-DETR (gaopengcuhk/SMCA-DETR), a fork of DETR."""
from collections.abc import Mapping

import torch
from torch import Tensor

from .key_table import COUNTER, KeyMismatchError, KeyTable, add_counters

# Category ids of COCO's 80 classes, in MMDetection's order of classes.
COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
# Rows of the official classifier: ids 0 ... 90, and one more.
_OFFICIAL_ROWS = 92
# Sigmoid of this is 0 in float32.
_NEVER = -200.
_CLASSIFIER = 'bbox_head.fc_cls.'


def _layer_rows(coder: str, attentions: dict[str, str], num_norms: int) -> dict[str, str]:
    rows = {**{f'{official}.*': f'{ours}.attn.*' for official, ours in attentions.items()},
            'linear1.*': 'ffn.layers.0.0.*', 'linear2.*': 'ffn.layers.1.*'}
    rows.update({f'norm{i + 1}.*': f'norms.{i}.*' for i in range(num_norms)})
    if coder == 'decoder':
        rows.update({'norm4.*': 'point_norm.*', 'point2.*': 'offset.*', 'point3.*': 'scale.*'})
    return {f'transformer.{coder}.layers.#.{official}': f'{coder}.layers.#.{ours}'
            for official, ours in rows.items()}


_ROWS = {
    'backbone.0.body.*': 'backbone.*',
    'input_proj.*': 'neck.convs.0.conv.*',
    'query_embed.*': 'query_embedding.*',
    **_layer_rows('encoder', {'self_attn': 'self_attn'}, num_norms=2),
    **_layer_rows('decoder', {'self_attn': 'self_attn', 'multihead_attn': 'cross_attn'},
                  num_norms=3),
    'transformer.decoder.layers.0.point1.layers.#.*': 'decoder.ref_point_head.layers.#.*',
    'transformer.decoder.norm.*': 'decoder.post_norm.*',
    'class_embed.*': f'{_CLASSIFIER}*',
    'bbox_embed.layers.0.*': 'bbox_head.reg_ffn.layers.0.0.*',
    'bbox_embed.layers.1.*': 'bbox_head.reg_ffn.layers.1.*',
    'bbox_embed.layers.2.*': 'bbox_head.fc_reg.*',
}


class SMCATable(KeyTable):
    """Two-way renaming between official SMCA-DETR detectors and :class:`SMCADETR`.

    What is not a plain renaming:

    - the classifier for COCO has a row per category id, 0 to 90, and one more; the 80 that are
      classes are kept, in MMDetection's order. Exporting sets the others to weight 0 and a bias
      that never scores. Classifiers with other numbers of rows stay as they are;
    - the frozen norms of the backbone count no batches: a counter of 0 is added, or left out.

    Args:
        name (str): Name of the source.
    """

    def __init__(self, name: str):
        super().__init__(name, _ROWS)

    def convert(self, state_dict: Mapping[str, Tensor], reverse: bool = False) -> dict[str, Tensor]:
        """See :meth:`KeyTable.convert` and the class.

        Raises:
            KeyMismatchError: Also if it is a detector without points: DETR itself.
        """
        if reverse:
            kept = {key: value for key, value in state_dict.items() if not key.endswith(COUNTER)}
            return super().convert(_change_classifier(kept, len(COCO_IDS), _insert_rows), reverse)
        converted = super().convert(state_dict)
        if not any(key.startswith('decoder.ref_point_head.') for key in converted):
            raise KeyMismatchError(
                'The checkpoint has no reference points (transformer.decoder.layers.0.point1): it '
                'is a DETR, not an SMCA-DETR.')
        return _change_classifier(add_counters(converted), _OFFICIAL_ROWS,
                                  lambda rows, key: rows[COCO_IDS])

    def describe(self, state_dict: Mapping[str, Tensor], reverse: bool = False) -> list[str]:
        """Return what :meth:`convert` does with each entry, one line each."""
        kept = {key: value for key, value in state_dict.items()
                if not (reverse and key.endswith(COUNTER))}
        new = self.convert(state_dict, reverse)
        names = self.rename(kept, reverse)[0]
        return [f'{key} -> {names[key]}  {tuple(value.shape)}'
                + (f' -> {tuple(new[names[key]].shape)}' if new[names[key]].shape != value.shape
                   else '') for key, value in kept.items()]


def _change_classifier(state_dict: dict[str, Tensor], num_rows: int, change) -> dict[str, Tensor]:
    return {key: change(value, key)
            if key.startswith(_CLASSIFIER) and len(value) == num_rows else value
            for key, value in state_dict.items()}


def _insert_rows(rows: Tensor, key: str) -> Tensor:
    fill = _NEVER if key.endswith('bias') else 0.
    official = torch.full((_OFFICIAL_ROWS, *rows.shape[1:]), fill, dtype=rows.dtype)
    official[COCO_IDS] = rows
    return official


SMCA_DETR = SMCATable('smca-detr')
