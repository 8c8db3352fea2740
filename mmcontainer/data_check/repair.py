"""Repairs of annotation files that are safe: in a copy, which the config then reads."""
import json
from collections.abc import Sequence
from pathlib import Path

from ..atomic import write_atomically
from .sources import Source

_WHAT = {
    'area': 'area = width x height of the box where it was missing',
    'iscrowd': 'iscrowd = 0 where it was missing',
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
    """
    content = json.loads(path.read_bytes())
    for item in content['annotations']:
        if 'area' in repairs:
            item.setdefault('area', item['bbox'][2] * item['bbox'][3])
        if 'iscrowd' in repairs:
            item.setdefault('iscrowd', 0)
    for image in content['images'] if 'file_name' in repairs else ():
        image['file_name'] = image['file_name'].replace('\\', '/')
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f'{path.parent.name}_{path.stem}_repaired.json'
    text = json.dumps(content)
    write_atomically(target, lambda file: Path(file).write_text(text, encoding='utf-8'))
    return target.resolve()


def read_instead(cfg, source: Source, target: Path) -> None:
    """Let a data set, and the evaluators that compare with its file, read another one."""
    old = source.ann_file.resolve()
    source.config['ann_file'] = str(target)
    evaluators = cfg.get(f'{source.split}_evaluator') or []
    for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
        own = evaluator.get('ann_file')
        if isinstance(own, str) and Path(own).expanduser().resolve() == old:
            evaluator['ann_file'] = str(target)
