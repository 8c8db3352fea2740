"""Whether masks are there, and usable, where a config trains or evaluates them."""
import numpy as np

from ..cli.config_changes import iter_dicts
from ..type_names import type_name
from .annotations import Annotations
from .masks import MEANINGS, MISSING, TOO_FEW_POINTS, USABLE
from .report import Report, counted, listed
from .sources import Source


def find_transform(source: Source, name: str) -> dict:
    """Config of a transform in the pipeline of a data set; empty if it has none of this name."""
    for _, node in iter_dicts(source.config.get('pipeline') or [], 'pipeline'):
        if type_name(node.get('type')) == name:
            return node
    return {}


def _has_mask_head(cfg) -> bool:
    return any(node.get('mask_head') for _, node in iter_dicts(cfg.get('model') or {}, 'model'))


def _evaluates_masks(cfg, split: str) -> bool:
    names = [node.get('metric') for _, node in iter_dicts(
        cfg.get(f'{split}_evaluator') or {}, 'evaluator')]
    return any('segm' in ([name] if isinstance(name, str) else name or ()) for name in names)


def check_masks_in_use(cfg, source: Source, annotations: Annotations, used: np.ndarray,
                       report: Report) -> None:
    """Check the segmentations of objects whose masks are trained or evaluated.

    Args:
        cfg (Config): For its model and evaluators.
        source (Source): A COCO data set.
        annotations (Annotations): Its file.
        used (np.ndarray): (N, ) objects that the data set keeps.
        report (Report): Gets problems and notes.
    """
    load = find_transform(source, 'LoadAnnotations')
    loads, evaluates = bool(load.get('with_mask')), False
    if source.split == 'train':
        if _has_mask_head(cfg) and load and not loads:
            report.problems.append(
                'the model has a mask head, but the pipeline loads no masks: write '
                "dict(type='LoadAnnotations', with_bbox=True, with_mask=True), or take a detector "
                'without mask head')
        loads |= _has_mask_head(cfg)
    else:
        evaluates = _evaluates_masks(cfg, source.split)
    if not loads and not evaluates:
        return
    if evaluates:  # COCO's evaluation draws those as well that the data set drops
        used = annotations.image >= 0
    codes = np.where(used, annotations.masks, USABLE)
    for code, meaning in MEANINGS.items():
        found = np.flatnonzero(codes == code)
        if not len(found):
            continue
        text = (f'{len(found)} of {counted(int(used.sum()), "object")} have {meaning} (numbers '
                f'{listed(found + 1)} in the list of annotations)')
        if code == TOO_FEW_POINTS and not evaluates:
            report.notes.append(f'{text}. They are left out.')
        elif code == MISSING:
            report.problems.append(f'{text}, and this config needs masks: use a config without '
                                   "mask head and without metric='segm', or add masks to the file")
        else:
            report.problems.append(f'{text}: correct or remove them')
    codes = used & annotations.is_code
    if load.get('poly2mask') is False and codes.any():
        report.notes.append(f'{counted(int(codes.sum()), "object")} with run-length codes as masks '
                            'are dropped (poly2mask=False of LoadAnnotations).')
