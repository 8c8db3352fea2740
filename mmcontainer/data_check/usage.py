"""The images, objects and masks of an annotation file that a config uses."""
import numpy as np

from ..config_nodes import iter_dicts
from ..type_names import type_name
from .annotations import Annotations
from .masks import MEANINGS, MISSING, TOO_FEW_POINTS, USABLE
from .report import Report, counted, listed
from .sources import Source


def _used_images(source: Source, annotations: Annotations, in_class: np.ndarray,
                 report: Report) -> np.ndarray:
    """(I, ) whether the data set keeps an image, by the rules of its ``filter_cfg``."""
    used = np.ones(len(annotations.sizes), bool)
    rules = source.config.get('filter_cfg')
    if source.config.get('test_mode') or not rules:
        return used
    min_size = rules.get('min_size', 0)
    small = annotations.sizes.min(1) < min_size
    if small.any():
        report.notes.append(f'dropped: {counted(int(small.sum()), "image")} smaller than '
                            f'{min_size} pixels (filter_cfg.min_size).')
    used &= ~small
    if rules.get('filter_empty_gt'):
        filled = np.zeros(len(used), bool)
        # COCO data sets ask for any annotation of a class, VOC ones for an object.
        of_class = in_class if source.kind == 'coco' else in_class & annotations.is_object
        filled[annotations.image[of_class & (annotations.image >= 0)]] = True
        empty = used & ~filled
        if empty.any():
            report.notes.append(f'dropped: {counted(int(empty.sum()), "image")} without objects '
                                '(filter_cfg.filter_empty_gt).')
        used &= filled
    return used


def check_usage(cfg, source: Source, annotations: Annotations, report: Report) -> list:
    """Count what a data set will use.

    Args:
        cfg (Config): For its model and evaluators.
        source (Source): The data set.
        annotations (Annotations): Its file, without problems of its own.
        report (Report): Gets problems, notes, and a summary.

    Returns:
        list[tuple[str, int]]: Number of objects by class, in the order of the file.
    """
    names = {category.id: category.name for category in annotations.categories
             if category.name in (source.classes or ())}
    in_class = np.isin(annotations.category, list(names))
    if not in_class.any() and source.split != 'train':
        report.notes.append('it has no object of the classes of the config: there is nothing that '
                            'AP could be computed from.')
    elif not in_class.any():
        report.problems.append('it has no object of the classes of the config')
        return []
    images = _used_images(source, annotations, in_class, report)
    if not images.any():
        report.problems.append(
            f'no image is left to read, of {len(images)}; {" ".join(report.notes)} Change '
            'filter_cfg of the data set, or its classes')
        return []
    used = in_class & annotations.is_object & images[annotations.image]
    if source.split == 'train' and not (used & ~annotations.is_ignored).any():
        report.problems.append('no object is left to train on: all are crowds, smaller than a '
                               'pixel or outside of their images')
        return []
    ignored = int((used & annotations.is_ignored).sum())
    if ignored:
        report.notes.append(f'not trained on: {counted(ignored, "object")} marked as crowd, '
                            'difficult or ignored.')
    if source.kind == 'coco':
        check_masks_in_use(cfg, source, annotations, used, report)
    report.summaries.append(
        f'{source.label}: {counted(int(images.sum()), "image")}, '
        f'{counted(int(used.sum()), "object")} of {len(set(names.values()))} classes  '
        f'({annotations.path})')
    counts = {number: int(total) for number, total in zip(
        *np.unique(annotations.category[used], return_counts=True))}
    return [(name, counts.get(number, 0)) for number, name in names.items()]


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
        report.notes.append(f'dropped: {counted(int(codes.sum()), "object")} with run-length codes '
                            'as masks (poly2mask=False of LoadAnnotations).')
