"""Everything in a config that numbers classes, compared with each other.

These are the names of data sets, their files, the heads of the model, and the evaluators.
"""
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from ..config_nodes import constructor_arguments, find_class, iter_dicts
from ..errors import UserError
from ..fileio import is_same_file
from .names import RENUMBER, check_coco_names, check_voc_names, line_to_write, quote, saved_meta
from .report import Report, listed
from .sources import Source, data_sources

# MMDetection's NumClassCheckHook has the same exceptions, on built models: region proposals know
# only "object", semantic heads of HTC and classifiers used as backbones count something else.
_OTHER_CLASSES = {'RPNHead', 'GARPNHead', 'CascadeRPNHead', 'FusedSemanticHead', 'VGG'}
_NO_HEADS = {'rpn_head', 'backbone', 'neck', 'data_preprocessor', 'train_cfg', 'test_cfg',
             'init_cfg'}


def _check_names(cfg, source: Source, report) -> None:
    """Compare the names of one data set with its files, which sets its labels."""
    if source.kind == 'folders':
        if source.path.is_dir():
            source.labels, source.agrees = _folders(source.path), True
    elif source.kind in ('coco', 'voc'):
        try:
            annotations = source.annotations
        except (UserError, OSError):
            return  # check_annotations reports files that cannot be read
        if source.kind == 'voc':
            check_voc_names(source, annotations, report)
            return
        check_coco_names(source, annotations, report)
        if source.agrees:
            check_category_order(cfg, source, annotations, report)
    elif isinstance(source.classes, tuple) and source.classes:
        source.labels, source.agrees = source.classes, source.kind == 'maps'


def _once(sources: Sequence[Source], texts: Sequence[Sequence[str]]) -> list[str]:
    """Put the names of data sets before what was found in each, and the same only once."""
    places = {}
    for source, found in zip(sources, texts):
        for text in found:
            places.setdefault(text, {})[source.where] = None
    return [f'{listed(where)}: {text}' for text, where in places.items()]


def _folders(path: Path) -> tuple[str, ...]:
    from mmpretrain.datasets.custom import find_folders
    return tuple(find_folders(str(path))[0])


def _has_one_head_per_class(source: Source) -> bool:
    """Tell whether a model for a data set has one output per class.

    Models that read the names of classes as text do not, panoptic models have heads for some of the
    classes only, and trackers detect one of the many classes that MOT's files name.
    """
    return bool(source.labels) and not source.config.get('return_classes') and not any(
        word in source.type_name for word in ('Panoptic', 'MOT'))


def check_classes(cfg, sources: Sequence[Source], report) -> None:
    """Compare everything in a config that numbers classes: names, files, heads, evaluators.

    Args:
        cfg (Config): ``classes`` in another order than that of the file, where all files agree, is
            repaired in place.
        sources (Sequence[Source]): Its data sets; ``labels`` and ``agrees`` are set.
        report (Report): Gets problems and notes.
    """
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


def _first_difference(left: Sequence[str], right: Sequence[str]) -> str:
    for label, (one, other) in enumerate(zip(left, right)):
        if one != other:
            return f'label {label} is {one!r} there and {other!r} here'
    return f'there are {len(left)} classes there and {len(right)} here'


def check_splits(sources: Sequence[Source], report) -> None:
    """Check that a label means the same in all data sets.

    Args:
        sources (Sequence[Source]): Data sets; those whose names are already known to be wrong
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


def classes_of_split(cfg, split: str) -> Optional[tuple[str, ...]]:
    """Class names of the data sets of a split, in the order of their labels.

    Call it after ``check_annotations``, which puts the names of the config into that order.

    Returns:
        tuple[str] | None: None where the config does not tell, as for folders of images.
    """
    for source in data_sources(cfg, [split]):
        if source.kind in ('coco', 'voc', 'maps') and isinstance(source.classes, tuple):
            return source.classes
    return None


def check_checkpoint_classes(content: Any, classes: Optional[Sequence[str]], where: str) -> None:
    """Check that a model was trained on the classes that it is now used with.

    Args:
        content (Any): Content of a checkpoint. One without names of classes, as weights of other
            projects, is accepted.
        classes (Sequence[str], optional): Class names in the order of the labels of the data; None
            accepts anything.
        where (str): Name of the checkpoint.

    Raises:
        UserError: If the checkpoint has other names, or the same in another order.
    """
    trained = saved_meta(content)['classes']
    if classes is None or trained is None:
        return
    classes = tuple(classes)
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


def _metrics(evaluator) -> Iterator[tuple[dict, Optional[int]]]:
    """Yield configs of metrics, with the number of the data set that each of several is for."""
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        evaluator = evaluator['metrics']
        several = isinstance(evaluator, (list, tuple))
        yield from ((metric, number) for number, metric in enumerate(evaluator if several else []))
    elif isinstance(evaluator, (list, tuple)):
        for item in evaluator:
            yield from _metrics(item)
    elif isinstance(evaluator, dict):
        yield evaluator, None


def check_evaluators(cfg, sources: Sequence[Source], report) -> None:
    """Check that evaluators compare with the files that the data sets read.

    Args:
        cfg (Config): With ``{val,test}_evaluator``. A metric without ``ann_file`` takes what the
            data set has read.
        sources (Sequence[Source]): Data sets of the splits to check.
        report (Report): Gets problems and notes.
    """
    # Panoptic data is evaluated against a file of panoptic and one of instance annotations.
    sources = [source for source in sources if 'Panoptic' not in source.type_name and source.path]
    for split in dict.fromkeys(source.split for source in sources):
        read = [source.path for source in sources if source.split == split]
        for metric, number in _metrics(cfg.get(f'{split}_evaluator')):
            path = metric.get('ann_file')
            if not isinstance(path, str) or metric.get('backend_args'):
                continue
            path = Path(path).expanduser()
            expected = read if number is None or number >= len(read) else [read[number]]
            where = f'{split}_evaluator: ann_file is {path}, but {split}_dataloader reads'
            if not any(is_same_file(path, own) for own in expected):
                # The file of several data sets together cannot be told from a wrong one.
                (report.problems if len(expected) == 1 else report.notes).append(
                    f'{where} {listed(expected)}. Detections would be compared with the objects '
                    'of other images: write the same file in both.')
            elif len(expected) > 1:
                report.problems.append(
                    f'{where} {listed(expected)}. Leave ann_file of the evaluator out, or give '
                    "each file a metric of its own with type='MultiDatasetsEvaluator'.")


def check_category_order(cfg, source: Source, annotations, report) -> None:
    """Check that what CocoMetric sorts by id stands in the file in that order.

    COCOeval sorts category ids, and CocoMetric names its class-wise results as if it had not; with
    ``sort_categories`` it sorts them itself, and the data set does not.

    Args:
        cfg (Config): With ``{val,test}_evaluator``.
        source (Source): A COCO data set whose names agree with its file.
        annotations (Annotations): What that file holds.
        report (Report): Gets a problem, which does not say of what data set.
    """
    ids = [category.id for category in annotations.categories if category.name in source.labels]
    if ids == sorted(ids):
        return
    for metric, _ in _metrics(cfg.get(f'{source.split}_evaluator')):
        keys = [key for key in ('classwise', 'sort_categories') if metric.get(key)]
        if keys and metric.get('ann_file'):
            report.problems.append(
                f'the ids of its categories do not ascend ({quote(ids)}), and with {keys[0]}=True '
                f'of {source.split}_evaluator results would get the names of other classes. Number '
                'them anew, in a new file, and name that as ann_file in data set and evaluator:\n'
                f'  {RENUMBER} {source.path} NEW_FILE')
            return


def _count(node: dict, cls: Any) -> Optional[tuple[int, str]]:
    """Number of classes that a module is built for and the key that says so; None if it has none.
    """
    if 'num_things_classes' in node and 'num_stuff_classes' in node:
        return node['num_things_classes'] + node['num_stuff_classes'], 'num_things_classes'
    if 'num_classes' in node:
        number = node['num_classes']
    else:
        arguments = constructor_arguments(cls)[0] if inspect.isclass(cls) else {}
        number = getattr(arguments.get('num_classes'), 'default', None)
    return (number, 'num_classes') if isinstance(number, int) else None


def iter_heads(cfg) -> Iterator[tuple[str, int, str]]:
    """Yield what in the model has outputs per class.

    Yields:
        tuple: Dotted key of the config that sets the number, the number, and a remark for one that
        is not in the config.
    """
    scope = cfg.get('default_scope', 'mmengine')
    for path, node in iter_dicts(cfg.get('model') or {}, 'model'):
        if _NO_HEADS & set(path.split('.')) or 'type' not in node:
            continue
        cls = find_class(node['type'], scope)
        if _OTHER_CLASSES & {base.__name__ for base in getattr(cls, '__mro__', ())}:
            continue
        found = _count(node, cls)
        if found is not None:
            number, key = found
            remark = '' if key in node else f' (the default of {cls.__name__})'
            yield f'{path}.{key}', number, remark


def check_heads(cfg, classes: Sequence[str], report) -> None:
    """Compare ``num_classes`` of every head of a config with the number of class names.

    Args:
        cfg (Config): With ``model``.
        classes (Sequence[str]): Names of the classes of the data.
        report (Report): Gets one problem that names all keys to change.
    """
    wrong = [head for head in iter_heads(cfg) if head[1] != len(classes)]
    if not wrong:
        return
    found = '\n'.join(f'  {key}={number}{remark}' for key, number, remark in wrong)
    options = ' '.join(f'{key}={len(classes)}' for key, _, _ in wrong)
    report.problems.append(
        f'The data has {len(classes)} classes ({quote(classes)}), but the model is built for '
        f'another number:\n{found}\nSet {"it" if len(wrong) == 1 else "them"} to {len(classes)} in '
        f'the config; on the command line: --cfg-options {options}')
