"""Copies of annotation files with safe repairs, or with other numbers for the categories."""
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from ..config_nodes import iter_dicts
from ..errors import UserError
from ..fileio import is_same_file, write_text
from .coco_file import fill_in_areas
from .names import quote
from .sources import Source

_WHAT = {
    'area': 'area = width x height of the box where it was missing or not positive',
    'iscrowd': 'iscrowd = 0 where it was missing',
    'id': 'ids of objects are 1, 2, 3 ... (some were missing, 0, no numbers, or occurred twice)',
    'file_name': r'\ in file_name became /',
}


def describe(repairs: Sequence[str]) -> str:
    """Describe the repairs of a file, for the user to read."""
    return '; '.join(_WHAT[repair] for repair in repairs)


def write_repaired(path: Path, repairs: Sequence[str], folder: Path) -> Path:
    """Write a repaired copy of a COCO annotation file.

    Args:
        path (Path): The file, which stays as it is.
        repairs (Sequence[str]): Which, see ``Annotations.repairs``.
        folder (Path): Where the copy goes.

    Returns:
        Path: The copy.

    Raises:
        UserError: If the folder cannot be written to.
    """
    content = json.loads(path.read_bytes())
    annotations = content.get('annotations', [])
    area = None
    if 'area' in repairs:
        area, _ = fill_in_areas(annotations, np.array([item['bbox'] for item in annotations]))
    for number, item in enumerate(annotations):
        if area is not None:
            item['area'] = float(area[number])
        if 'iscrowd' in repairs:
            item['iscrowd'] = item.get('iscrowd') or 0
        if 'id' in repairs:
            item['id'] = number + 1
    for image in content['images'] if 'file_name' in repairs else ():
        image['file_name'] = image['file_name'].replace('\\', '/')
    # Files of one name in different folders get different copies.
    place = hashlib.sha256(str(path.resolve()).encode('utf-8', 'surrogateescape')).hexdigest()[:8]
    target = folder / f'{path.stem}_{place}_repaired.json'
    text = json.dumps(content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
    except OSError as error:
        raise UserError(f'{path} needs a repaired copy ({describe(repairs)}), but it cannot be '
                        f'written to {folder}: {error.strerror}.') from error
    return target.resolve()


def read_instead(cfg, source: Source, target: Path) -> None:
    """Let a data set, and the evaluators that compare with its file, read another one."""
    old = source.path
    source.config['ann_file'] = str(target)
    # An evaluator may hold several metrics, as MultiDatasetsEvaluator does.
    for _, node in iter_dicts(cfg.get(f'{source.split}_evaluator') or {}, ''):
        own = node.get('ann_file')
        if isinstance(own, str) and is_same_file(Path(own).expanduser(), old):
            node['ann_file'] = str(target)


def renumber(content: dict, names: Optional[Sequence[str]] = None) -> dict:
    """Number categories 1, 2, ... in a given order; those of one name become one.

    Args:
        content (dict): A COCO annotation file.
        names (Sequence[str], optional): The order. Names that the file lacks become categories
            without objects, categories without objects that are not named are dropped. By default
            the names of the file in its own order.

    Returns:
        dict: The same file with other ``categories`` and another ``category_id`` in each object;
        ``content`` itself stays as it is.

    Raises:
        UserError: If objects belong to a category that is not named, or that does not exist, or if
            a name is given twice.
    """
    counts = Counter(annotation['category_id'] for annotation in content.get('annotations', []))
    categories = content['categories']
    unknown = set(counts) - {category['id'] for category in categories}
    if unknown:
        raise UserError(f'{sum(counts[number] for number in unknown)} objects have a category_id '
                        f'without a category: {quote(unknown)}.')
    order = list(dict.fromkeys(category['name'] for category in categories))
    if names is not None:
        lost = {category['name'] for category in categories
                if counts[category['id']] and category['name'] not in names}
        if lost:
            raise UserError(f'--names leaves out categories that have objects: {quote(lost)}.')
        order = list(dict.fromkeys(names))
        if len(order) < len(names):
            raise UserError('--names has the same name twice.')
    numbers = {name: number for number, name in enumerate(order, start=1)}
    # Of several with one name, the one that has the objects is the one that is meant.
    details = {category['name']: category
               for category in sorted(categories, key=lambda category: counts[category['id']])}
    new_ids = {category['id']: numbers.get(category['name']) for category in categories}
    return {
        **content,
        'categories': [{**details.get(name, {}), 'id': number, 'name': name}
                       for name, number in numbers.items()],
        'annotations': [{**annotation, 'category_id': new_ids[annotation['category_id']]}
                        for annotation in content.get('annotations', [])],
    }


def renumber_file(source: str, target: str, names: Optional[Sequence[str]] = None) -> str:
    """Write a copy of an annotation file with other numbers: see :func:`renumber`.

    Returns:
        str: What was written, for the user to read.

    Raises:
        UserError: If the source is no annotation file or the target exists already.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if target.exists():
        raise UserError(f'{target} exists already and is not overwritten; name a new file.')
    if not target.parent.is_dir():
        raise UserError(f'There is no folder {target.parent} to write {target.name} to.')
    try:
        content = json.loads(source.read_text(encoding='utf-8'))
        content = renumber(content, names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{source} cannot be read as a COCO annotation file: {error!r}') from error
    text = json.dumps(content)
    write_text(target, text)
    lines = [f'{category["id"]:>4}  {category["name"]}' for category in content['categories']]
    return '\n'.join([f'{target}: categories are now', *lines])
