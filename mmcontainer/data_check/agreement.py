"""Whether training, validation, tests, evaluators and checkpoints mean the same classes."""
import filecmp
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from ..engine.errors import UserError
from .annotations import read_annotations
from .heads import check_heads
from .labels import LabelSource, label_sources
from .names import RENUMBER, check_coco_names, check_voc_names, line_to_write, quote
from .report import Report, listed


def _first_difference(left: Sequence[str], right: Sequence[str]) -> str:
    for label, (one, other) in enumerate(zip(left, right)):
        if one != other:
            return f'label {label} is {one!r} there and {other!r} here'
    return f'there are {len(left)} classes there and {len(right)} here'


def check_splits(sources: Sequence[LabelSource], report) -> None:
    """Check that a label means the same in all data sets.

    Args:
        sources (Sequence[LabelSource]): Data sets; those whose names are already known to be wrong
            are left out.
        report (Report): Gets problems.
    """
    sources = [source for source in sources if source.agrees and source.labels]
    for source in sources[1:]:
        first = sources[0]
        if source.labels == first.labels:
            continue
        text = (f'{source.where}: its classes are {quote(source.labels)}, but those of '
                f'{first.where} are {quote(first.labels)}: '
                f'{_first_difference(first.labels, source.labels)}.\n')
        if set(source.labels) != set(first.labels):
            text += ('All data sets of a model need the same folders of classes.'
                     if source.kind == 'folders' else
                     'Give all data sets the same metainfo. A class that a file happens to lack '
                     'has to be among its categories all the same.')
        elif source.kind == 'coco':
            order = ' '.join(f'"{name}"' for name in first.labels)
            text += ('MMDetection numbers classes in the order of the categories of each file. '
                     'Give this one the same order, in a new file, and name that as ann_file:\n'
                     f'  {RENUMBER} {source.path} NEW_FILE --names {order}')
        else:
            text += f'Write  {line_to_write(first.labels)}  for both.'
        report.problems.append(text)


def _iter_evaluators(evaluator) -> Iterator[dict]:
    """Yield configs of metrics; MultiDatasetsEvaluator holds them in ``metrics``."""
    if isinstance(evaluator, (list, tuple)):
        for item in evaluator:
            yield from _iter_evaluators(item)
    elif isinstance(evaluator, dict):
        if 'metrics' in evaluator:
            yield from _iter_evaluators(evaluator['metrics'])
        yield evaluator


def _same_file(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    if not (one.is_file() and other.is_file()):
        return False  # what is missing is reported elsewhere
    return filecmp.cmp(one, other, shallow=False)


def check_evaluators(cfg, sources: Sequence[LabelSource], report) -> None:
    """Check that evaluators compare with the files that the data sets read.

    Args:
        cfg (Config): With ``{val,test}_evaluator``.
        sources (Sequence[LabelSource]): Data sets of the splits to check.
        report (Report): Gets problems and notes.
    """
    # Panoptic data is evaluated against a file of panoptic and one of instance annotations.
    sources = [source for source in sources if 'Panoptic' not in source.type_name]
    for split in dict.fromkeys(source.split for source in sources):
        paths = {source.path for source in sources if source.split == split and source.path}
        metrics = [metric for metric in _iter_evaluators(cfg.get(f'{split}_evaluator') or [])
                   if isinstance(metric.get('ann_file'), str) and not metric.get('backend_args')]
        evaluated = {Path(metric['ann_file']).expanduser() for metric in metrics}
        wrong = [path for path in evaluated if not any(_same_file(path, own) for own in paths)]
        listing = ', '.join(map(str, sorted(paths)))
        where = f'{split}_evaluator: ann_file is {", ".join(map(str, sorted(wrong or evaluated)))}'
        if paths and wrong:
            # The file of several data sets together cannot be told from a wrong one.
            (report.problems if len(paths) == 1 else report.notes).append(
                f'{where}, but the data set of {split}_dataloader reads {listing}. '
                'Results would be compared with other images: write the same file in both.')
        elif len(paths) > 1 and len(evaluated) == 1:
            report.problems.append(
                f'{where}, but {split}_dataloader reads {listing}. Leave ann_file of the evaluator '
                "out, or give each file a metric of its own with type='MultiDatasetsEvaluator'.")


def check_category_order(cfg, source: LabelSource, annotations, report) -> None:
    """Check that what CocoMetric sorts by id stands in the file in that order.

    COCOeval sorts category ids, and CocoMetric names its class-wise results as if it had not; with
    ``sort_categories`` it sorts them itself, and the data set does not.

    Args:
        cfg (Config): With ``{val,test}_evaluator``.
        source (LabelSource): A COCO data set whose names agree with its file.
        annotations (Annotations): What that file holds.
        report (Report): Gets problems.
    """
    ids = [category.id for category in annotations.categories if category.name in source.labels]
    if ids == sorted(ids):
        return
    for metric in _iter_evaluators(cfg.get(f'{source.split}_evaluator') or []):
        keys = [key for key in ('classwise', 'sort_categories') if metric.get(key)]
        if keys and metric.get('ann_file'):
            report.problems.append(
                f'the ids of its categories do not ascend ({quote(ids)}), and with '
                f'{keys[0]}=True of {source.split}_evaluator results would get the names of other '
                'classes. Number them anew, in a new file, and name that as ann_file in data set '
                f'and evaluator:\n  {RENUMBER} {source.path} NEW_FILE')
            return


def classes_of_split(cfg, split: str) -> Optional[tuple[str, ...]]:
    """Class names of the data sets of a split, in the order of their labels.

    Call it after ``check_annotations``, which puts the names of the config into that order.

    Returns:
        tuple[str] | None: None where the config does not tell, as for folders of images.
    """
    for source in label_sources(cfg, [split]):
        if source.kind in ('coco', 'voc') and isinstance(source.classes, tuple):
            return source.classes
    return None


def check_checkpoint_classes(meta: Optional[dict], classes: Optional[Sequence[str]], where: str
                             ) -> None:
    """Check that a model was trained on the classes that it is now used with.

    Args:
        meta (dict, optional): ``meta`` of a checkpoint. Files without names of classes, as weights
            of other projects, are accepted.
        classes (Sequence[str], optional): Class names in the order of the labels of the data; None
            accepts anything.
        where (str): Name of the checkpoint.

    Raises:
        UserError: If the checkpoint has other names, or the same in another order.
    """
    meta = meta if isinstance(meta, dict) else {}
    trained = (meta.get('dataset_meta') or {}).get('classes') or (
        meta.get('dataset_meta') or {}).get('CLASSES') or meta.get('CLASSES')
    if classes is None or not isinstance(trained, (list, tuple)) or not trained:
        return
    trained, classes = tuple(trained), tuple(classes)
    if trained == classes:
        return
    text = (f'{where} was trained on other classes than those of the data: its names are '
            f'{quote(trained)}, those of the data {quote(classes)}; '
            f'{_first_difference(trained, classes)}.\n')
    if set(trained) == set(classes):
        order = ' '.join(f'"{name}"' for name in trained)
        text += ('Give the data the order of the checkpoint. Labels of COCO files follow their '
                 f'categories:\n  {RENUMBER} ANN_FILE NEW_FILE --names {order}\n'
                 'If it was trained on a file with this order of categories, and only classes of '
                 'the config stood in another, its labels are right and the names in it wrong: '
                 "correct meta['dataset_meta']['classes'] in the checkpoint.")
    else:
        text += ('Use the config and data that it was trained with; where the same classes only '
                 'have other names, give categories and classes the names of the checkpoint.')
    raise UserError(text)


def _check_names(cfg, source: LabelSource, report) -> None:
    """Compare the names of one data set with its files, which sets its labels."""
    if source.kind == 'folders':
        if source.path.is_dir():
            source.labels, source.agrees = _folders(source.path), True
    elif source.kind == 'voc':
        check_voc_names(source, None, report)
    elif source.kind == 'coco' and source.path is not None and source.path.is_file():
        try:
            annotations = read_annotations(source.path)
        except UserError:
            return  # check_annotations reports files that cannot be read
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
