"""What published training logs hold, to compare a running training with."""
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError


@dataclass(frozen=True)
class PublishedRun:
    """Loss and AP that the authors of a model got during one training.

    Attributes:
        name: FOLDER/NAME of our config of this run, if there is one.
        source: Whose numbers these are, in words; ``curves.yaml`` says where they were read.
        by_epoch: Whether ``loss`` and ``evaluations`` are by epoch, from 1 on, or by iteration.
        loss: By epoch the mean total loss. By iteration, counted from 0, the median of the values
            that were logged within ``within`` iterations; one was logged after every ``every``
            iterations, and was the median of these.
        evaluations: {epoch, or number of iterations done: {'bbox': (AP, AP50, AP75, APs, APm, APl),
            'segm': the same of masks}} in percent; of some only the AP is known.
        images: Images per iteration; 0 by epoch, where it does not matter.
        within: In iterations; 0 by epoch.
        every: In iterations; 1 by epoch.
    """
    name: str
    source: str
    by_epoch: bool
    loss: Mapping[int, float] = field(default_factory=dict)
    evaluations: Mapping[int, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    images: int = 0
    within: int = 0
    every: int = 1


def _run(name: str, group: dict[str, Any], numbers: dict[str, Any]) -> PublishedRun:
    loss = numbers.get('loss', {})
    if 'first_epoch' in numbers:  # lists, one value per epoch
        first = numbers['first_epoch']
        loss = dict(enumerate(loss, first))
        evaluations = {epoch: {'bbox': (ap, )} for epoch, ap in enumerate(numbers['ap'], first)}
    else:
        evaluations = {group['evaluated']: {
            kind: tuple(numbers[kind]) for kind in ('bbox', 'segm') if kind in numbers}}
    options = {key: group[key] for key in ('images', 'within', 'every') if key in group}
    return PublishedRun(name, group['source'], group['by'] == 'epoch', loss, evaluations, **options)


@cache
def load_curves() -> dict[str, PublishedRun]:
    """Return all published runs by name. Sources stand at the top of ``curves.yaml``."""
    groups = yaml.safe_load((Path(__file__).parent / 'curves.yaml').read_text(encoding='utf-8'))
    return {name: _run(name, group, numbers) for group in groups.values()
            for name, numbers in group['runs'].items()}


def find_run(name: str) -> PublishedRun:
    """Return one published run.

    Raises:
        ConfigError: If there is none of this name; says which come closest.
    """
    runs = load_curves()
    if name not in runs:
        close = get_close_matches(str(name), runs, n=3) or runs
        raise ConfigError(f'No published run is called {name!r}. There are, among others:\n'
                          + '\n'.join(f'  {other}' for other in close))
    return runs[name]
