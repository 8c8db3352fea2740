"""Names in CoTNet's detectron2 checkpoints (JDAI-CV/CoTNet-ObjectDetection-InstanceSegmentation).

Backbones alone (the released files) and whole detectors. Channels need no permutation: both
libraries order anchors by aspect ratio, flatten pooled features as (C, H, W), put the background
class last and regress (dx, dy, dw, dh) per class.
"""
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .key_table import COUNTER, KeyMismatchError, KeyTable, add_counters

_BOTTOM_UP = 'backbone.bottom_up.'
_UNPREFIXED = re.compile(r'(stem|res\d|linear)\.')
_UNPREFIXED_OURS = re.compile(r'(conv1|bn1|layer\d|fc)\.')
# detectron2 freezes these norms, whose frozen form does not count batches.
_FROZEN_NORMS = re.compile(r'(backbone\.)?(conv1|bn1|layer1)\.')
_MASK_HEAD = 'roi_head.mask_head.'
_PIXELS = {'pixel_mean': (123.675, 116.28, 103.53), 'pixel_std': (58.395, 57.12, 57.375)}  # RGB
_CELL_ANCHORS = re.compile(r'proposal_generator\.anchor_generator\.cell_anchors\.(\d)')


def _conv_rows(official: str, ours: str) -> dict[str, str]:
    """A convolution with an optional norm: detectron2's Conv2d and mmcv's ConvModule."""
    return {f'{official}.weight': f'{ours}.conv.weight', f'{official}.bias': f'{ours}.conv.bias',
            f'{official}.norm.*': f'{ours}.bn.*'}


def _block_rows(deep: bool) -> dict[str, str]:
    rows = {
        'conv1.weight': 'conv1.weight', 'conv1.norm.*': 'bn1.*',
        'conv3.weight': 'conv3.weight', 'conv3.norm.*': 'bn3.*',
        'conv2.key_embed.0.weight': 'conv2.key_embed.0.weight',
        'conv2.key_embed.0.norm.*': 'conv2.key_embed.1.*',
        'conv2.embed.0.weight': 'conv2.embed.0.weight',
        'conv2.embed.0.norm.*': 'conv2.embed.1.*',
        'conv2.embed.2.*': 'conv2.embed.3.*',
        'conv2.embed.3.*': 'conv2.embed.4.*',
        'conv2.se.0.weight': 'conv2.se.0.weight', 'conv2.se.0.bias': 'conv2.se.0.bias',
        'conv2.se.0.norm.*': 'conv2.se.1.*',
        'conv2.se.2.*': 'conv2.se.3.*',
    }
    rows.update({f'conv2.{name}.*': f'conv2.{name}.*' for name in (
        'conv1x1.#', 'bn', 'conv', 'bn0', 'fc1', 'bn1', 'fc2')})
    if deep:  # average pooling is downsample.0
        rows.update({'shortcut.1.weight': 'downsample.1.weight',
                     'shortcut.1.norm.*': 'downsample.2.*'})
    else:
        rows.update({'shortcut.weight': 'downsample.0.weight', 'shortcut.norm.*': 'downsample.1.*'})
    return rows


def _backbone_rows(deep: bool) -> dict[str, str]:
    rows = {'linear.*': 'fc.*'}
    if deep:
        rows.update({'stem.conv1.7.*': 'bn1.*', 'stem.conv1.#.*': 'conv1.#.*'})
    else:
        rows.update({'stem.conv1.weight': 'conv1.weight', 'stem.conv1.norm.*': 'bn1.*'})
    for stage in range(1, 5):
        rows.update({f'res{stage + 1}.#.{official}': f'layer{stage}.#.{ours}'
                     for official, ours in _block_rows(deep).items()})
    return {_BOTTOM_UP + official: f'backbone.{ours}' for official, ours in rows.items()}


def _head_rows() -> dict[str, str]:
    rows = {
        'proposal_generator.rpn_head.conv.*': 'rpn_head.rpn_conv.*',
        'proposal_generator.rpn_head.objectness_logits.*': 'rpn_head.rpn_cls.*',
        'proposal_generator.rpn_head.anchor_deltas.*': 'rpn_head.rpn_reg.*',
        'roi_heads.mask_head.deconv.*': f'{_MASK_HEAD}upsample.*',
        'roi_heads.mask_head.predictor.*': f'{_MASK_HEAD}conv_logits.*',
    }
    for level in range(4):
        rows.update(_conv_rows(f'backbone.fpn_lateral{level + 2}', f'neck.lateral_convs.{level}'))
        rows.update(_conv_rows(f'backbone.fpn_output{level + 2}', f'neck.fpn_convs.{level}'))
    for stage in ('', '#.'):  # one box head, or one per stage of the cascade
        head, predictor = f'roi_heads.box_head.{stage}', f'roi_heads.box_predictor.{stage}'
        ours = f'roi_head.bbox_head.{stage}'
        for i in range(4):
            rows.update(_conv_rows(f'{head}conv{i + 1}', f'{ours}shared_convs.{i}'))
        rows.update({f'{head}fc1.*': f'{ours}shared_fcs.0.*',
                     f'{predictor}cls_score.*': f'{ours}fc_cls.*',
                     f'{predictor}bbox_pred.*': f'{ours}fc_reg.*'})
    for i in range(4):
        rows.update(_conv_rows(f'roi_heads.mask_head.mask_fcn{i + 1}', f'{_MASK_HEAD}convs.{i}'))
    return rows


def _cell_anchors(level: int) -> Tensor:
    """Anchors (3, 4) of a pyramid level: area (32 * 2^level)^2, height / width 0.5, 1, 2."""
    ratio = torch.tensor([0.5, 1., 2.], dtype=torch.float64)
    half = 16 * 2**level * torch.stack((ratio.rsqrt(), ratio.sqrt()), dim=1)
    return torch.cat((-half, half), dim=1)


class Detectron2Table(KeyTable):
    """Two-way renaming between CoTNet's detectron2 detectors and MMDetection's.

    What is not a plain renaming:

    - a file with nothing but a backbone becomes a backbone without prefix, and is exported with
      ``backbone.bottom_up.``, as the released files have it;
    - norms that detectron2 froze have no ``num_batches_tracked``: it is added as 0, and left out
      for the stem and the first stage of an exported detector;
    - pixel statistics and cell anchors, which older detectron2 stores, are compared with those of
      this project's configs and left out.

    A cascade is that of :class:`Detectron2CascadeRoIHead`, which has one mask head; those of
    MMDetection's own cascade, one per stage, have no place in detectron2's names.

    Args:
        name (str): Name of the source.
    """

    def __init__(self, name: str):
        super().__init__(name, {})
        heads = _head_rows()
        # Names of the two shortcuts and stems overlap on our side.
        self._families = [KeyTable(name, {**_backbone_rows(deep), **heads})
                          for deep in (False, True)]

    def rename(self, keys: Iterable[str],
               reverse: bool = False) -> tuple[dict[str, str], list[str]]:
        """Return ({key: new name}, [keys without a row]), leaving constants out."""
        keys = [key for key in keys if not self._is_left_out(key)]
        qualified = {self._qualify(key, reverse): key for key in keys}
        renamed, unplaced = min((family.rename(qualified, reverse) for family in self._families),
                                key=lambda result: len(result[1]))
        return ({qualified[key]: new for key, new in renamed.items()},
                [qualified[key] for key in unplaced])

    def convert(self, state_dict: Mapping[str, Tensor], reverse: bool = False) -> dict[str, Tensor]:
        """See :meth:`KeyTable.convert` and the class."""
        if reverse:
            return super().convert(_drop_frozen_counters(state_dict), reverse)
        self._check_constants(state_dict)
        converted = super().convert(
            {key: value for key, value in state_dict.items() if not self._is_left_out(key)})
        if all(key.startswith('backbone.') for key in converted):
            converted = {key[len('backbone.'):]: value for key, value in converted.items()}
        return add_counters(converted)

    def describe(self, state_dict: Mapping[str, Tensor], reverse: bool = False) -> list[str]:
        """Return what :meth:`convert` does with each entry, one line each."""
        lines = super().describe(state_dict, reverse)
        left_out = [key for key in state_dict if self._is_left_out(key)]
        return lines + [f'{key} left out: a constant of the configs, which agrees'
                        for key in left_out]

    @staticmethod
    def _is_left_out(key: str) -> bool:
        return key in _PIXELS or _CELL_ANCHORS.fullmatch(key) is not None

    @staticmethod
    def _qualify(key: str, reverse: bool) -> str:
        if reverse:
            return f'backbone.{key}' if _UNPREFIXED_OURS.match(key) else key
        return _BOTTOM_UP + key if _UNPREFIXED.match(key) else key

    @staticmethod
    def _check_constants(state_dict: Mapping[str, Tensor]) -> None:
        for key, value in state_dict.items():
            level = _CELL_ANCHORS.fullmatch(key)
            if key in _PIXELS:
                expected, remedy = torch.tensor(_PIXELS[key]), 'data_preprocessor'
            elif level:
                expected, remedy = _cell_anchors(int(level.group(1))), 'rpn_head.anchor_generator'
            else:
                continue
            value = value.squeeze()
            if value.shape != expected.shape or not torch.allclose(
                    value.double(), expected.double(), atol=1e-3):
                raise KeyMismatchError(
                    f'{key} of the checkpoint is {value.tolist()}, but the configs of this project '
                    f'have {expected.tolist()} (RGB pixels): the detector would see other input '
                    f'than it was trained on. Remove this key from the file, and set {remedy} in '
                    'your config to its value.')


def _drop_frozen_counters(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    is_detector = any(key.startswith('neck.') for key in state_dict)
    return {key: value for key, value in state_dict.items()
            if not (is_detector and key.endswith(COUNTER) and _FROZEN_NORMS.match(key))}


COTNET_DETECTRON2 = Detectron2Table('cotnet-detectron2')
