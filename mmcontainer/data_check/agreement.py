"""Whether training, validation, tests and checkpoints mean the same by a label."""
from collections.abc import Sequence
from typing import Any, Optional

from ..cli.class_names import saved_meta
from ..errors import UserError
from .labels import LabelSource, label_sources
from .names import RENUMBER, line_to_write, quote


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
