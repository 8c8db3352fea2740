"""What there is to reproduce, row by row: the published numbers, and how to get them here."""
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Optional

import yaml

from . import load_tables

# COCO's metrics are fractions in the output of tools/test.py and percent in the papers.
_FRACTIONS = 'coco/'
_MAIN = ('coco/bbox_mAP', 'coco/segm_mAP', 'accuracy/top1', 'knn/top1')


@dataclass(frozen=True)
class Row:
    """A row of a table of a paper, or a config that belongs to none.

    Attributes:
        name: What ``tools/reproduce.py`` calls it.
        paper: 'Container', 'CoTNet', 'CoAtNet' or 'SMCA-DETR'; '' for a config beside the papers.
        table: Where the paper states it.
        model: Backbone or classifier, as a person calls it.
        task: The detector or segmenter, or 'classifier'.
        collection: Its collection in ``configs/metafile.yml``.
        data: Data set.
        gpus: GPUs of the recipe.
        images: Images per GPU and step of the recipe.
        published: {metric of ``tools/test.py``: percent}; empty if the paper states none.
        stated_size: Parameters in M and multiply-adds in G as the paper counts them, those that it
            states, as 'params' and 'flops'.
        measured: Parameters in M and multiply-adds in G of this implementation; None if not listed.
        config: Path below ``configs/``; None if there is none, and ``reason`` says why.
        reason: Why there is no config.
        weights: Name of the pretrained weights in ``checkpoints/``, without its ending, or an
            address that MMEngine downloads; None if it trains from random weights.
        hours: Time that the authors' training took, on what; 'unknown' where nobody says.
        note: What else one has to know.
        small_of: The row of the paper that this one is a small experiment on.
        arch: Name of the row in ``arch_settings`` of the Container family.
        affinities: Dynamic and static affinity of a member of the Container family, in words.
        mark: Sign of a footnote, in the page that lists the row's size.
    """
    name: str
    paper: str
    table: str
    model: str
    task: str
    collection: str
    data: str
    gpus: int
    images: int
    published: Mapping[str, float] = field(default_factory=dict)
    stated_size: Mapping[str, float] = field(default_factory=dict)
    measured: Optional[tuple[float, float]] = None
    config: Optional[str] = None
    reason: str = ''
    weights: Optional[str] = None
    hours: str = 'unknown'
    note: str = ''
    small_of: Optional[str] = None
    arch: str = ''
    affinities: tuple[str, ...] = ()
    mark: str = ''

    @property
    def batch(self) -> int:
        """Images of an iteration of the recipe."""
        return self.gpus * self.images

    @property
    def title(self) -> str:
        """Model and task, as in 'RetinaNet, Container-Light'."""
        return f'{self.task}, {self.model}'

    @property
    def published_text(self) -> str:
        """The main published numbers: '45.1 / 41.3' (box and mask AP), '82.0', or '-'."""
        digits = 2 if self.paper == 'CoTNet' and self.data == 'COCO' else 1
        return ' / '.join(f'{self.published[metric]:.{digits}f}' for metric in _MAIN
                          if metric in self.published) or '-'


def _look_up(path: str) -> Any:
    """What stands in ``tables.yaml`` at a path such as 'data_efficiency/1.0/deit_s', else None."""
    node = load_tables()
    for key in filter(None, path.split('/')):
        if isinstance(node, list):
            node = node[int(key)]
        else:
            node = {str(name): value for name, value in node.items()}.get(key)
        if node is None:
            return None
    return node


def _read(name: str, fields: dict[str, Any]) -> Row:
    """Make a row of its fields in ``rows.yaml``; ``key`` and ``metrics`` are places in a table."""
    place = f'{fields.pop("published", "")}/{fields.pop("key", "")}'
    numbers = {metric: _look_up(f'{place}/{key}')
               for metric, key in fields.pop('metrics', {}).items()}
    entry = _look_up(place)
    size = {key: entry[key] for key in ('params', 'flops') if key in entry} if isinstance(
        entry, dict) else {}
    if fields.get('config'):
        fields['reason'] = ''
    elif not fields.get('reason'):
        raise ValueError(f'{name} in rows.yaml has neither a config nor a reason for having none.')
    for key in ('measured', 'affinities'):
        if key in fields:
            fields[key] = tuple(fields[key])
    return Row(name=name, stated_size=size, published={
        metric: value for metric, value in numbers.items() if value is not None}, **fields)


@cache
def load_rows() -> dict[str, Row]:
    """Read ``rows.yaml``: {name: row}, in the order of the papers and their tables.

    Raises:
        ValueError: A row has neither a config nor a reason, or a name is there twice.
    """
    text = (Path(__file__).parent / 'rows.yaml').read_text(encoding='utf-8')
    rows = {}
    for group in yaml.safe_load(text):
        for name, fields in group['rows'].items():
            if name in rows:
                raise ValueError(f'{name} is twice in rows.yaml.')
            rows[name] = _read(name, {**group['defaults'], **fields})
    return rows


def percent(metric: str, value: float) -> float:
    """A value that ``tools/test.py`` found, in percent as the papers state it."""
    return 100 * value if metric.startswith(_FRACTIONS) else value
