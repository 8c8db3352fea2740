"""Whether evaluators compare with the files that the data sets read, and name classes rightly."""
import filecmp
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from .labels import LabelSource
from .names import RENUMBER, quote
from .report import listed


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


def _same_file(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    if not (one.is_file() and other.is_file()):
        return False  # what is missing is reported elsewhere
    return filecmp.cmp(one, other, shallow=False)


def check_evaluators(cfg, sources: Sequence[LabelSource], report) -> None:
    """Check that evaluators compare with the files that the data sets read.

    Args:
        cfg (Config): With ``{val,test}_evaluator``. A metric without ``ann_file`` takes what the
            data set has read.
        sources (Sequence[LabelSource]): Data sets of the splits to check.
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
            if not any(_same_file(path, own) for own in expected):
                # The file of several data sets together cannot be told from a wrong one.
                (report.problems if len(expected) == 1 else report.notes).append(
                    f'{where} {listed(expected)}. Detections would be compared with the objects '
                    'of other images: write the same file in both.')
            elif len(expected) > 1:
                report.problems.append(
                    f'{where} {listed(expected)}. Leave ann_file of the evaluator out, or give '
                    "each file a metric of its own with type='MultiDatasetsEvaluator'.")


def check_category_order(cfg, source: LabelSource, annotations, report) -> None:
    """Check that what CocoMetric sorts by id stands in the file in that order.

    COCOeval sorts category ids, and CocoMetric names its class-wise results as if it had not; with
    ``sort_categories`` it sorts them itself, and the data set does not.

    Args:
        cfg (Config): With ``{val,test}_evaluator``.
        source (LabelSource): A COCO data set whose names agree with its file.
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
