"""Names in the official checkpoints of SMCA-DETR (gaopengcuhk/SMCA-DETR), a fork of DETR."""
from collections.abc import Mapping
from typing import Any

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
# Levels of the multi-scale detector, in pixels.
_STRIDES = (8, 16, 32, 64)


def _layer_rows(coder: str, attentions: dict[str, str], num_norms: int) -> dict[str, str]:
    rows = {**{f'{official}.*': f'{ours}.attn.*' for official, ours in attentions.items()},
            'linear1.*': 'ffn.layers.0.0.*', 'linear2.*': 'ffn.layers.1.*'}
    rows.update({f'norm{i + 1}.*': f'norms.{i}.*' for i in range(num_norms)})
    if coder == 'decoder':
        rows.update({'norm4.*': 'point_norm.*', 'point2.*': 'offset.*', 'point3.*': 'scale.*'})
    return {f'transformer.{coder}.layers.#.{official}': f'{coder}.layers.#.{ours}'
            for official, ours in rows.items()}


# Of the single-scale and the multi-scale detector.
_COMMON_ROWS = {
    'backbone.0.body.*': 'backbone.*',
    'query_embed.*': 'query_embedding.*',
    **_layer_rows('decoder', {'self_attn': 'self_attn', 'multihead_attn': 'cross_attn'},
                  num_norms=3),
    'transformer.decoder.layers.0.point1.layers.#.*': 'decoder.ref_point_head.layers.#.*',
    'transformer.decoder.norm.*': 'decoder.post_norm.*',
    'class_embed.*': f'{_CLASSIFIER}*',
    'bbox_embed.layers.0.*': 'bbox_head.reg_ffn.layers.0.0.*',
    'bbox_embed.layers.1.*': 'bbox_head.reg_ffn.layers.1.*',
    'bbox_embed.layers.2.*': 'bbox_head.fc_reg.*',
}
_ROWS = {
    'input_proj.*': 'neck.convs.0.conv.*',
    **_layer_rows('encoder', {'self_attn': 'self_attn'}, num_norms=2),
    **_COMMON_ROWS,
}


def _multi_scale_rows() -> dict[str, str]:
    layer = {'conv_1.*': 'conv_in.*', 'conv_2.*': 'conv_out.*',
             'high_to_low.*': 'down_convs.shared.*', 'low_to_high.*': 'up_convs.shared.*'}
    layer.update({f'self_attn_{stride}.*': f'level_convs.{stride}.*' for stride in _STRIDES})
    for i, (finer, coarser) in enumerate(zip(_STRIDES, _STRIDES[1:]), 1):
        layer.update({f'high_to_low_{i}.*': f'down_convs.{finer}.*',
                      f'low_to_high_{i}.*': f'up_convs.{coarser}.*'})
    return {
        **{f'input_proj_{channels}.*': f'neck.convs.{i}.conv.*'
           for i, channels in enumerate((512, 1024, 2048))},
        'input_proj_2048_3.*': 'neck.extra_convs.0.conv.*',
        'transformer.level_embed': 'level_embedding.weight',
        'transformer.conv.*': 'reduce.*',
        **{f'transformer.encoder.layers.#.{official}': f'encoder.layers.#.{ours}'
           for official, ours in layer.items()},
        **_layer_rows('encoder', {}, num_norms=2),
        **_COMMON_ROWS,
        'transformer.decoder.layers.#.point4.*': 'decoder.layers.#.group_weight.*',
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
        rows (Mapping[str, str]): See :class:`KeyTable`.
    """

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


class MultiScaleSMCATable(SMCATable):
    """The same for :class:`MultiScaleSMCADETR`, of whose encoder two kinds were released."""

    def convert(self, state_dict: Mapping[str, Tensor], reverse: bool = False) -> dict[str, Tensor]:
        """See :meth:`SMCATable.convert`.

        Raises:
            KeyMismatchError: Also if the encoder is of no kind, see :func:`encoder_options`.
        """
        converted = super().convert(state_dict, reverse)
        encoder_options(state_dict if reverse else converted)
        return converted

    def describe(self, state_dict: Mapping[str, Tensor], reverse: bool = False) -> list[str]:
        """See :meth:`SMCATable.describe`; the last line says which encoder a config must have."""
        lines = super().describe(state_dict, reverse)
        ours = state_dict if reverse else self.convert(state_dict)
        options = ', '.join(f'{key}={value}' for key, value in encoder_options(ours).items())
        return [*lines, f'model.encoder.layer_cfg of these weights: {options}']


def encoder_options(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of :class:`MultiScaleSMCAEncoderLayer` that weights of ours belong to.

    Names tell whether the exchange is shared, as in the model with AP 44.4, and shapes the kernel:
    both runs with an exchange of their own per pair of levels had 7, and the file that was released
    with it has 5.

    Raises:
        KeyMismatchError: If there is no encoder, or one of both kinds.
    """
    kernels = {value.shape[-1] for key, value in state_dict.items() if value.dim() == 4 and any(
        f'.{name}_convs.' in key for name in ('level', 'down', 'up'))}
    shared = {'.down_convs.shared.' in key for key in state_dict if '.down_convs.' in key}
    if len(kernels) != 1 or len(shared) != 1:
        raise KeyMismatchError(
            'The layers of a multi-scale SMCA-DETR have one kind of encoder: found kernels of '
            f'{sorted(kernels) or "no"} cells, and exchange that is '
            f'{" and ".join("shared" if one else "separate" for one in shared) or "missing"}.')
    return dict(kernel_size=kernels.pop(), shared_exchange=shared.pop())


SMCA_DETR = SMCATable('smca-detr', _ROWS)
MULTI_SCALE_SMCA_DETR = MultiScaleSMCATable('multi-scale-smca-detr', _multi_scale_rows())
