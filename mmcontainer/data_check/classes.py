"""Everything in a config that numbers classes, compared with each other."""
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .agreement import check_splits
from .annotations import read_annotations, read_voc
from .evaluators import check_category_order, check_evaluators
from .heads import check_heads
from .labels import LabelSource, label_sources
from .names import check_coco_names, check_voc_names
from .report import Report, listed


def _check_names(cfg, source: LabelSource, report) -> None:
    """Compare the names of one data set with its files, which sets its labels."""
    if source.kind == 'folders':
        if source.path.is_dir():
            source.labels, source.agrees = _folders(source.path), True
    elif source.kind in ('coco', 'voc'):
        try:
            annotations = read_annotations(source.path) if source.kind == 'coco' else read_voc(
                source.path, source.root, source.config)
        except (UserError, OSError):
            return  # check_annotations reports files that cannot be read
        if source.kind == 'voc':
            check_voc_names(source, annotations, report)
            return
        check_coco_names(source, annotations, report)
        if source.agrees:
            check_category_order(cfg, source, annotations, report)
    elif isinstance(source.classes, tuple) and source.classes:
        source.labels = source.classes


def _once(sources: Sequence[LabelSource], texts: Sequence[Sequence[str]]) -> list[str]:
    """Put the names of data sets before what was found in each, and the same only once."""
    places = {}
    for source, found in zip(sources, texts):
        for text in found:
            places.setdefault(text, {})[source.where] = None
    return [f'{listed(where)}: {text}' for text, where in places.items()]


def _folders(path: Path) -> tuple[str, ...]:
    from mmpretrain.datasets.custom import find_folders
    return tuple(find_folders(str(path))[0])


def _has_one_head_per_class(source: LabelSource) -> bool:
    """Whether a model for a data set has one output per class.

    Models that read the names of classes as text have not, panoptic ones have heads for some of the
    classes only, and trackers detect one of the many that MOT's files name.
    """
    return bool(source.labels) and not source.config.get('return_classes') and not any(
        word in source.type_name for word in ('Panoptic', 'MOT'))


def check_classes(cfg, splits: Sequence[str], report) -> None:
    """Compare everything in a config that numbers classes: names, files, heads, evaluators.

    Args:
        cfg (Config): ``classes`` in another order than that of the file, where all files agree, is
            repaired in place.
        splits (Sequence[str]): Which of 'train', 'val' and 'test' are used.
        report (Report): Gets problems and notes.
    """
    sources = label_sources(cfg, splits)
    found = []
    for source in sources:
        found.append(Report())
        _check_names(cfg, source, found[-1])
    report.problems += _once(sources, [one.problems for one in found])
    report.notes += _once(sources, [one.notes for one in found])
    check_splits(sources, report)
    check_evaluators(cfg, sources, report)
    counted = [source for source in sources if _has_one_head_per_class(source)]
    if counted:
        check_heads(cfg, counted[0].labels, report)
