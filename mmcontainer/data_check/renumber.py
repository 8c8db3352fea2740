"""Giving the categories of a COCO annotation file other numbers, in another order."""
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ..errors import UserError
from ..fileio import write_atomically
from .names import quote


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
    write_atomically(target, lambda file: Path(file).write_text(text, encoding='utf-8'))
    lines = [f'{category["id"]:>4}  {category["name"]}' for category in content['categories']]
    return '\n'.join([f'{target}: categories are now', *lines])
