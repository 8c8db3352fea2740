"""Write docs/results.md and its pictures: what trainings on real photographs gave.

    python -m benchmarks.learning

The numbers come from ``results/ledger.jsonl``, where ``tools/reproduce.py`` noted them, and the
sections from ``learning.yaml``.
"""
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import yaml
from matplotlib.figure import Figure

from mmcontainer.cli.reproduce_ledger import LEDGER, read_ledger
from mmcontainer.errors import UserError
from mmcontainer.fileio import write_atomically, write_text
from mmcontainer.paper.rows import Row, load_rows

from .documents import ROOT, markdown
from .plots import new_axes

PAGE = ROOT / 'docs' / 'results.md'
_METRICS = {'accuracy/top1': 'top-1', 'coco/bbox_mAP': 'AP', 'knn/top1': '10-NN top-1'}
_SEED = 'randomness.seed'
_INTRO = """# Results on real photographs

ImageNet and COCO are out of reach of the machines that this project has. What the papers claim was
tried on small data sets instead, by recipes that anyone can run again. **Such results neither
confirm nor refute the papers' numbers**: networks rank differently after 8 epochs of 9469 small
images than after 300 epochs of 1.3 million. Every training that was finished is in
[`results/ledger.jsonl`](../results/ledger.jsonl), good or bad. `python -m benchmarks.learning`
writes this page from it; do not edit it.

All networks of a table have the same data, augmentation, optimizer, schedule and number of
iterations, after the last of which the numbers were found: on the validation images, of BCCD on the
test images. They differ in what they cost: see the minutes. "Half-way" is after half of the epochs
of one training, on the validation images, of BCCD too. "Minutes" are those that processors worked
on a training and its validations, or a GPU was held; of DINO they were not noted.
The learning rate is one for all networks, and was not tuned for any; [DeiT-S would rather have
another](#is-it-the-learning-rate). The seed is 0; where there are more, the others are 1 and 2
(`--cfg-options randomness.seed=1`). Where one seed is all there is, two points of difference mean
nothing: 3925 images alone make the standard error of an accuracy of 72 % 0.7, and BCCD has 72 test
images.

## Data

The project ships none of it. `DIR` in the commands below is the folder of the data set; without
`--data-root` it is `data/imagenette`, `data/bccd` or `data/voc`.

- [Imagenette](https://github.com/fastai/imagenette), 9469 + 3925 photographs of 10 classes. `DIR`
  holds `train/n01440764/*.JPEG`, ..., and `val/` alike. Its images are ImageNet's, which may be
  used for research; the collection has the Apache licence 2.0. Here they were read from copies of
  128 x 128 pixels, into which they had been squeezed whatever their shape. From photographs in
  their own shape the configs cut the middle, which is another task.
- [BCCD](https://github.com/Shenggan/BCCD_Dataset), 205 + 87 + 72 microscope images of 3 classes,
  licence MIT. `DIR` holds `images/*.jpg`, and in `annotations/` the files `train.json`, `val.json`
  and `test.json` in COCO's format, made of the lists in its `ImageSets/Main`.
- [PASCAL VOC 2012](http://host.robots.ox.ac.uk/pascal/VOC/voc2012/), 3119 + 307 of its photographs
  with 6710 boxes of 8 classes, named in [`voc_train.txt`](../results/voc_train.txt) and
  [`voc_val.txt`](../results/voc_val.txt); `DIR` as for BCCD, without `test.json`. They show animals
  above all; the other 12 classes, which together have 458 boxes, are left out. Here they were read
  from copies whose longer side had 320 pixels. The photographs are from Flickr and under its terms
  of use.

Lists of a part of Imagenette are made first: `python tools/make_imagenet_subset.py DIR/train
--share 0.1 --out DIR/meta/train_10pct.txt`, and the same with 0.5 and `50pct`; whether the images
end in `.JPEG` or `.jpg` makes no difference. BCCD and VOC come with a file of XML per image. This
makes COCO's of them, as `python to_coco.py LIST.txt Annotations DIR/annotations/SPLIT.json CLASS
...`, where the classes are in the order of the config:

```python
import json, sys
from xml.etree import ElementTree

names, folder, out, *classes = sys.argv[1:]
images, boxes = [], []
for name in open(names).read().split():
    tree = ElementTree.parse(f'{folder}/{name}.xml')
    size = {side: int(tree.findtext(f'size/{side}')) for side in ('width', 'height')}
    images.append(dict(id=len(images) + 1, file_name=f'{name}.jpg', **size))
    for thing in tree.iter('object'):
        if thing.findtext('name') not in classes:
            continue
        x1, y1, x2, y2 = (float(thing.findtext(f'bndbox/{key}'))
                          for key in ('xmin', 'ymin', 'xmax', 'ymax'))
        boxes.append(dict(id=len(boxes) + 1, image_id=len(images), iscrowd=0,
                          category_id=classes.index(thing.findtext('name')) + 1,
                          bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1)))
categories = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
json.dump(dict(images=images, annotations=boxes, categories=categories), open(out, 'w'))
```

`python -m benchmarks.imagenette_weights` makes the files in `checkpoints/` that detectors start
from, of the classifiers that the rows `imagenette_container_light` and `imagenette_r50` trained:
the weights alone, in float16 (39 MB of a Container-Light in place of 230). At 64 x 64 pixels the
maps of stage 4 have 2 x 2 positions, so that the outer ring of Container-Light's 5 x 5 kernels
there met nothing but padding, and never learned. In a detector, whose maps are larger, these random
weights would act. They are set to 0 in that file, which changes nothing of the classifier.
"""


@dataclass(frozen=True)
class Run:
    """What a line of a table is about.

    Attributes:
        row: A row of ``rows.yaml``.
        label: What the line is called.
        changes: What is changed of the row's recipe.
        entries: Of the ledger, the latest of every seed; all with the recipe and the pretrained
            weights of the very latest.
    """
    row: Row
    label: str
    changes: dict[str, Any]
    entries: tuple[dict, ...]

    @property
    def values(self) -> list[float]:
        """The main number of every training, in percent."""
        return [entry['found'][self.metric] for entry in self.entries]

    @property
    def metric(self) -> str:
        """The main one."""
        return next(metric for metric in _METRICS if metric in self.entries[0]['found'])

    @property
    def command(self) -> str:
        """How to repeat it."""
        changes = ''.join(f' {key}={value}' for key, value in self.changes.items())
        options = f' --cfg-options{changes}' if changes else ''
        return f'python tools/reproduce.py {self.row.name} --data-root DIR{options}'


@dataclass(frozen=True)
class Experiment:
    """A section of the page.

    Attributes:
        key: Names its picture.
        title: Its heading.
        claim: What the paper says, and what is done here.
        runs: Those of ``learning.yaml``, with or without results.
        outcome: What came out, with the means of rows as ``{imagenette_r50:.1f}``, or of runs by
            their place in ``runs``, as ``{0:.1f}``. It is shown once all runs have results.
    """
    key: str
    title: str
    claim: str
    runs: tuple[Run, ...]
    outcome: str = ''

    @property
    def finished(self) -> list[Run]:
        """Those with results, the best first."""
        runs = [run for run in self.runs if run.entries]
        return sorted(runs, key=lambda run: -statistics.mean(run.values))


def _make_run(given: Any, entries: Sequence[dict]) -> Run:
    given = given if isinstance(given, dict) else dict(row=given)
    row, changes = load_rows()[given['row']], given.get('changes', {})

    def belongs(entry: dict) -> bool:
        found = {key: value for key, value in (entry.get('changes') or {}).items() if key != _SEED}
        # Entries without a hash are of recipes that have been changed since.
        return (entry['row'] == row.name and not entry.get('small') and found == changes
                and 'recipe_hash' in entry)

    label = given.get('label') or (row.model if row.data in ('Imagenette', 'BCCD', 'VOC')
                                   else f'{row.model}, {row.data}')

    def recipe(entry: dict) -> tuple:
        return entry['recipe_hash'], entry.get('weights') or {}

    found = [entry for entry in entries if belongs(entry)]
    # Who repeats a training gets it again, and no other seed.
    by_seed = {(entry.get('changes') or {}).get(_SEED, 0): entry
               for entry in found if recipe(entry) == recipe(found[-1])}
    return Run(row, label, changes, tuple(by_seed.values()))


def load_experiments(ledger: Path) -> list[Experiment]:
    """The sections with what the ledger has of them."""
    entries, problems = read_ledger(ledger)
    if problems:
        raise UserError('\n'.join(problems))
    text = Path(__file__).with_suffix('.yaml').read_text(encoding='utf-8')
    return [Experiment(**{**section, 'runs': tuple(_make_run(run, entries)
                                                   for run in section['runs'])})
            for section in yaml.safe_load(text)]


def _number(values: Sequence[float]) -> str:
    """'71.3', or with several seeds their mean and standard deviation: '71.3 ± 0.4 (3 seeds)'."""
    mean = f'{statistics.mean(values):.1f}'
    if len(values) == 1:
        return mean
    return f'{mean} ± {statistics.stdev(values):.1f} ({len(values)} seeds)'


def _minutes(entries: Sequence[dict]) -> Optional[float]:
    """Mean minutes of training: those that passed beside a GPU, else those that the CPU worked.

    None if nobody counted those, as in the first entries of the ledger.
    """
    seconds = [entry['seconds'] if entry.get('threads', 1) is None else entry.get('cpu_seconds')
               for entry in entries]
    known = [value['train'] / 60 for value in seconds if value]
    return statistics.mean(known) if known else None


def _published(row: Row) -> str:
    twin = load_rows().get(row.small_of)
    return twin.published_text if twin else '-'


def _line(run: Run) -> list[str]:
    minutes = _minutes(run.entries)
    curve = run.entries[0].get('curve') or []
    middle = [f'{value:.1f}' for epoch, value in curve if 2 * epoch == curve[-1][0]]
    return [run.label, _number(run.values), *(middle or ['-']),
            '-' if minutes is None else f'{minutes:.0f}', _published(run.row)]


def _machines(runs: Sequence[Run]) -> str:
    """Where and when the numbers of a table were found."""
    days = defaultdict(set)
    for run in runs:
        for entry in run.entries:
            days[entry['hardware'], entry['versions']['torch']].add(entry['date'][:10])
    return '; '.join(f'{hardware}, torch {version}, {", ".join(sorted(dates))}'
                     for (hardware, version), dates in sorted(days.items()))


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)


def render_experiment(experiment: Experiment) -> Iterator[str]:
    """Lines of a section."""
    runs = experiment.finished
    yield from ('', f'## {experiment.title}', '', *_paragraph(experiment.claim))
    if runs:
        metric = _METRICS[runs[0].metric]
        yield ''
        yield from markdown(['network', f'{metric} here', 'half-way', 'minutes of CPU or GPU',
                             'the paper, on its data'], map(_line, runs))
        if experiment.outcome and len(runs) == len(experiment.runs):
            means = [statistics.mean(run.values) for run in experiment.runs]
            by_row = {run.row.name: mean for run, mean in zip(experiment.runs, means)
                      if not run.changes}
            yield from ('', *_paragraph(experiment.outcome.format(*means, **by_row)))
        yield from ('', *_paragraph(f'Where: {_machines(runs)}.'))
    if len(_curves(experiment)) > 1:
        yield from ('', f'![{experiment.title}: accuracy by epoch and by minute]'
                        f'(images/{picture_path(experiment).name})')
    missing = [run.label for run in experiment.runs if not run.entries]
    if missing:
        yield from ('', *_paragraph(f'Not run yet: {"; ".join(missing)}.'))
    yield from ('', '```', *dict.fromkeys(run.command for run in experiment.runs), '```')


def render(experiments: Sequence[Experiment]) -> str:
    """The page."""
    lines = (line for experiment in experiments for line in render_experiment(experiment))
    return '\n'.join([_INTRO.rstrip(), *lines]) + '\n'


def picture_path(experiment: Experiment) -> Path:
    """Where the picture of a section lies."""
    return PAGE.parent / 'images' / f'results_{experiment.key}.png'


def _curves(experiment: Experiment) -> list[tuple[str, list[list[float]], Optional[float]]]:
    """Label, [epoch, percent] and minutes of one training of every run that has a curve."""
    return [(run.label, run.entries[0]['curve'], _minutes(run.entries))
            for run in experiment.finished if run.entries[0].get('curve')]


def draw(experiment: Experiment) -> Optional[Figure]:
    """Accuracy by the share of the epochs and by minutes; None without two curves to compare."""
    curves = _curves(experiment)
    if len(curves) < 2:
        return None
    figure, by_epoch, by_minute = new_axes('', 2)
    for label, curve, minutes in curves:
        shares = [step / curve[-1][0] for step, _ in curve]
        values = [value for _, value in curve]
        line, = by_epoch.plot([100 * share for share in shares], values, marker='o', label=label)
        if minutes is not None:
            by_minute.plot([share * minutes for share in shares], values, marker='o',
                           color=line.get_color())
    by_epoch.set(xlabel='training done, %', ylabel=_METRICS[experiment.finished[0].metric] + ', %')
    by_minute.set(xlabel='minutes of CPU or GPU')
    by_epoch.legend(frameon=False)
    return figure


def write(ledger: Path = ROOT / LEDGER) -> None:
    """Write the page and its pictures."""
    experiments = load_experiments(ledger)
    for experiment in experiments:
        figure = draw(experiment)
        if figure is not None:
            write_atomically(picture_path(experiment), lambda file, figure=figure: figure.savefig(
                file, metadata=dict(Software=None)))
    write_text(PAGE, render(experiments))


if __name__ == '__main__':
    from mmcontainer.cli.tool import run_tool
    run_tool(write)
