"""Class names of a config against the categories of its annotation files.

MMDetection's CocoDataset and CocoMetric look categories up by name, but number them in the order in
which they stand in the file, whatever order ``classes`` has. So ``classes`` in another order gives
the right AP and wrong names in every picture, and a name that does not occur in the file moves all
later ones by one.
"""
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Optional

from .report import counted, listed
from .sources import Source

# The command that gives a file other numbers for its categories.
RENUMBER = 'mmcontainer renumber'


def quote(names: Iterable[str]) -> str:
    """Names for a message; of many the first ones."""
    return listed(map(repr, names))


def line_to_write(names: Sequence[str]) -> str:
    """The line of a config that gives a data set its class names."""
    return f'metainfo=dict(classes={tuple(names)!r})'


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> Optional[str]:
    """The known name that was most likely meant, also where it only differs in case."""
    plain = {other.strip().casefold(): other for other in known}
    close = get_close_matches(name.strip().casefold(), plain, n=1, cutoff=cutoff)
    return plain[close[0]] if close else None


def _flaw_of_classes(source: Source) -> str:
    """Describe a mistake in ``classes`` itself; an empty string if there is none."""
    classes = source.classes
    if isinstance(classes, str):
        return (f'classes is the string {classes!r}, and there is no file of that name; a tuple of '
                f'names is expected. A single name needs a comma: classes=({classes!r}, )')
    if not isinstance(classes, tuple) or not all(isinstance(name, str) for name in classes):
        return f'classes is {classes!r}; a tuple of names is expected, as classes=("cat", "dog")'
    if not classes:
        return 'classes is empty; name at least one class'
    twice = [name for name, number in Counter(classes).items() if number > 1]
    return f'classes names {quote(twice)} more than once' if twice else ''


def _flaw_of_file(classes: Sequence[str], annotations) -> str:
    """Describe why categories of a file are ambiguous; an empty string if they are not."""
    ids = Counter(category.id for category in annotations.categories)
    twice = [number for number, times in ids.items() if times > 1]
    if twice:
        return f'several of its categories have the id {listed(twice)}; ids must be unique'
    unknown = {number: count for number, count in annotations.instances.items()
               if number not in ids and count}
    if unknown:
        listing = listed(f'{number} ({counted(count, "object")})'
                         for number, count in unknown.items())
        return (f'it has objects of the category_id {listing}, but its categories have the ids '
                f'{listed(ids)}. Such objects would be dropped without a word, and '
                'the others may have the wrong class: correct category_id or categories')
    same = {name: [category for category in annotations.categories if category.name == name]
            for name in classes}
    for name, found in same.items():
        if len(found) < 2:
            continue
        listing = ' and '.join(
            f'{category.id} ({counted(annotations.instances.get(category.id, 0), "object")})'
            for category in found)
        return (f'several of its categories are named {name!r}: the ids {listing}. Each would '
                'become a class of its own, and with fewer outputs in the head the last ones '
                'background. (Roboflow writes the group of all classes as category 0; it has no '
                'objects.) Make them one class, in a new file, and name that as ann_file:\n'
                f'  {RENUMBER} {annotations.path} NEW_FILE')
    return ''


def _names_with_objects(annotations) -> list[str]:
    """Names of a file in its order, without those that have no object if any has one."""
    used = [category.name for category in annotations.categories
            if annotations.instances.get(category.id)]
    return list(dict.fromkeys(used or [category.name for category in annotations.categories]))


def _missing_names(source: Source, missing: Sequence[str], annotations) -> str:
    """Message about names that a file does not have; sets the labels that are probably meant."""
    in_file = list(dict.fromkeys(category.name for category in annotations.categories))
    meant = {name: closest(name, set(in_file) - set(source.classes)) for name in missing}
    if source.names_itself and all(meant.values()):
        kept = {*source.classes, *meant.values()} - set(missing)
        source.labels = tuple(name for name in in_file if name in kept)
    else:
        source.labels = tuple(_names_with_objects(annotations))
    asked, hints = 'which classes names', []
    if source.names_itself:
        hints = [f'  {name!r}: did you mean {other!r}?' for name, other in meant.items() if other]
    else:
        wrong = ' (metainfo has CLASSES, but the key is classes)' if 'CLASSES' in (
            source.config.get('metainfo') or {}) else ''
        asked = (f'which {source.type_name} expects, because the config names no '
                 f'classes{wrong}')
    return '\n'.join([
        f'the file lacks {quote(missing)}, {asked}. Its categories are {quote(in_file)}.',
        *hints[:10],
        f'Write  {line_to_write(source.labels)}  in the dataset of every dataloader, and '
        f'num_classes={len(source.labels)} in the heads. (A class that a file happens to lack has '
        f'to be among its categories all the same: {RENUMBER} FILE NEW_FILE --names ...)'])


def _left_out(source: Source, annotations) -> str:
    """Say which objects training would not see, because ``classes`` does not name them."""
    counts = {category.name: annotations.instances.get(category.id, 0)
              for category in annotations.categories if category.name not in source.classes}
    dropped = {name: count for name, count in counts.items() if count}
    if not dropped:
        return ''
    listing = listed(f'{count} of {name!r}' for name, count in dropped.items())
    return (f'classes leaves out {counted(sum(dropped.values()), "object")}: '
            f'{listing}. They count as background.')


def _reorder(source: Source, order: tuple[str, ...]) -> None:
    """Put ``classes`` of a config, and colours given with them, into the order of the labels."""
    metainfo = dict(source.config.get('metainfo') or {})
    palette = metainfo.get('palette')
    if isinstance(palette, list) and len(palette) == len(order):
        metainfo['palette'] = [palette[source.classes.index(name)] for name in order]
    metainfo['classes'] = order
    source.config['metainfo'] = metainfo
    source.classes = order


def check_coco_names(source: Source, annotations, report) -> None:
    """Compare the names of a COCO data set with the categories of its file.

    ``classes`` in another order is repaired: the config gets the order of the file, which labels
    follow anyway, so only names and colours change.

    Args:
        source (Source): The data set; ``labels``, ``agrees`` and its config are set.
        annotations (Annotations): What its file holds.
        report (Report): Gets problems and notes, which do not say of what data set.
    """
    flaw = _flaw_of_classes(source)
    if flaw:
        found = _names_with_objects(annotations)
        source.labels = (source.classes, ) if source.classes in found else tuple(found)
        report.problems.append(f'{flaw}.\nThe file has the categories '
                               f'{quote(found)}: write  {line_to_write(source.labels)}')
        return
    in_file = [category.name for category in annotations.categories]
    missing = [name for name in source.classes if name not in in_file]
    if missing:
        report.problems.append(_missing_names(source, missing, annotations))
        return
    source.labels = tuple(dict.fromkeys(name for name in in_file if name in source.classes))
    flaw = _flaw_of_file(source.classes, annotations)
    if flaw:
        report.problems.append(flaw)
        return
    source.agrees = True
    if source.labels != source.classes:
        report.notes.append(
            'MMDetection numbers classes in the order of the file, so '
            f'classes {quote(source.classes)} of the config were read as {quote(source.labels)}.')
        _reorder(source, source.labels)
    left_out = _left_out(source, annotations)
    if left_out:
        report.notes.append(left_out)


def check_voc_names(source: Source, annotations, report) -> None:
    """Compare the names of a VOC data set, whose labels follow ``classes``, with its XML files.

    Args:
        source (Source): The data set; ``labels`` and ``agrees`` are set.
        annotations (Annotations, optional): What its files hold; None if that is not known.
        report (Report): Gets problems and notes, which do not say of what data set.
    """
    flaw = _flaw_of_classes(source)
    if flaw:
        report.problems.append(f'{flaw}.')
        return
    source.labels, source.agrees = source.classes, True
    if annotations is None:
        return
    found = _names_with_objects(annotations)
    unused = [name for name in source.classes if name not in found]
    # A name without objects is legal; one that is almost that of other objects is a mistake.
    meant = {name: closest(name, set(found) - set(source.classes), 0.8) for name in unused}
    left_out = _left_out(source, annotations)
    if len(unused) == len(source.classes) or any(meant.values()) or (
            left_out and not source.names_itself):
        hints = [f'  {name!r}: did you mean {other!r}?' for name, other in meant.items() if other]
        origin = 'classes' if source.names_itself else f'the names of {source.type_name}'
        report.problems.append('\n'.join([
            f'the XML files have objects of {quote(found)}; {origin} are '
            f'{quote(source.classes)}.', *hints[:10],
            f'Write the names as the files have them, as  {line_to_write(found)}']))
    elif left_out:
        report.notes.append(left_out)


def names_of(value) -> Optional[tuple[str, ...]]:
    """Class names in the types in which checkpoints and configs hold them; None for no names."""
    if isinstance(value, str):  # classes=('cell') is a string
        return (value, )
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) and value else None


def saved_meta(content: Any) -> dict[str, Any]:
    """``classes`` (names), ``palette`` ... that a checkpoint has saved, empty if it has none.

    MMDetection 3.x saves them as ``meta['dataset_meta']['classes']``, 2.x as ``meta['CLASSES']``,
    and converted files may have none.
    """
    meta = content.get('meta') if isinstance(content, dict) else None
    meta = meta if isinstance(meta, dict) else {}
    saved = meta.get('dataset_meta')
    saved = {str(key).lower(): value for key, value in saved.items()} if isinstance(
        saved, dict) else {}
    return {**saved, 'classes': names_of(saved.get('classes')) or names_of(meta.get('CLASSES'))}
