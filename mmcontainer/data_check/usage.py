"""What of an annotation file a config uses: which images and objects are left?"""
import numpy as np

from .annotations import Annotations
from .mask_use import check_masks_in_use
from .report import Report, counted
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
        report.notes.append(f'{counted(int(small.sum()), "image")} smaller than {min_size} pixels '
                            'are dropped (filter_cfg.min_size).')
    used &= ~small
    if rules.get('filter_empty_gt'):
        filled = np.zeros(len(used), bool)
        # COCO data sets ask for any annotation of a class, VOC ones for an object.
        of_class = in_class if source.kind == 'coco' else in_class & annotations.is_object
        filled[annotations.image[of_class & (annotations.image >= 0)]] = True
        empty = used & ~filled
        if empty.any():
            report.notes.append(f'{counted(int(empty.sum()), "image")} without objects are dropped '
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
            f'no image is left to read, of {len(images)}: {" ".join(report.notes)} Change '
            'filter_cfg of the data set, or its classes')
        return []
    used = in_class & annotations.is_object & images[annotations.image]
    if source.split == 'train' and not (used & ~annotations.is_ignored).any():
        report.problems.append('no object is left to train on: all are crowds, smaller than a '
                               'pixel or outside of their images')
        return []
    ignored = int((used & annotations.is_ignored).sum())
    if ignored:
        report.notes.append(f'{counted(ignored, "object")} marked as crowd, difficult or ignored '
                            'are not trained on.')
    if source.kind == 'coco':
        check_masks_in_use(cfg, source, annotations, used, report)
    report.summaries.append(
        f'{source.label}: {counted(int(images.sum()), "image")}, '
        f'{counted(int(used.sum()), "object")} of {len(set(names.values()))} classes  '
        f'({annotations.path})')
    counts = {number: int(total) for number, total in zip(
        *np.unique(annotations.category[used], return_counts=True))}
    return [(name, counts.get(number, 0)) for number, name in names.items()]
