"""Repairs of annotation files that are safe: in a copy, which the config then reads."""
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..cli.config_changes import iter_dicts
from ..errors import UserError
from ..fileio import write_atomically
from .coco_file import fill_in_areas
from .sources import Source

_WHAT = {
    'area': 'area = width x height of the box where it was missing, or 0 in all',
    'iscrowd': 'iscrowd = 0 where it was missing',
    'id': 'ids of objects are 1, 2, 3 ... (some were missing, 0, no numbers, or occurred twice)',
    'file_name': r'\ in file_name became /',
}


def describe(repairs: Sequence[str]) -> str:
    """What is done to a file, for the user to read."""
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
        write_atomically(target, lambda file: Path(file).write_text(text, encoding='utf-8'))
    except OSError as error:
        raise UserError(f'{path} needs a repaired copy ({describe(repairs)}), but it cannot be '
                        f'written to {folder}: {error.strerror}.') from error
    return target.resolve()


def read_instead(cfg, source: Source, target: Path) -> None:
    """Let a data set, and the evaluators that compare with its file, read another one."""
    old = source.ann_file.resolve()
    source.config['ann_file'] = str(target)
    # An evaluator may hold several metrics, as MultiDatasetsEvaluator does.
    for _, node in iter_dicts(cfg.get(f'{source.split}_evaluator') or {}, ''):
        own = node.get('ann_file')
        if isinstance(own, str) and Path(own).expanduser().resolve() == old:
            node['ann_file'] = str(target)
