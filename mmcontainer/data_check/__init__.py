"""Checks of a config's data before anything is trained or tested on it.

``check_annotations`` reads every annotation file once and compares it with its images, with the
class names and heads of the config, with the evaluators, and with the other splits.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ..engine.summary import table
from ..errors import UserError
from .annotations import Annotations, read_annotations
from .classes import check_classes
from .files import check_data, check_images
from .maps import check_maps
from .repair import describe, read_instead, write_repaired
from .report import Report
from .sources import Source, data_sources
from .usage import check_usage, find_transform

__all__ = ['Report', 'check_annotations', 'check_data', 'examine', 'read_annotations']


def _examine_file(source: Source, report: Report) -> Optional[Annotations]:
    """Check one file and its images; returns what it holds if nothing is wrong with it."""
    own = Report()
    if source.kind == 'maps':
        check_maps(source, own)
        report.problems += [f'{source.where}: {text}.' for text in own.problems]
        report.summaries += own.summaries
        return None
    try:
        annotations = source.annotations
    except UserError as error:
        report.problems.append(str(error))
        return None
    except OSError as error:
        report.problems.append(f'{source.path} cannot be read ({error.strerror})')
        return None
    if annotations is None:
        return None
    own.problems += annotations.problems
    own.notes += annotations.notes
    if not annotations.problems:
        loader = find_transform(source, 'LoadImageFromFile')
        is_other = not loader and source.config.get('pipeline')
        check_images(annotations, source.image_folder, own, None if is_other else loader)
    report.problems += [f'{source.label}_dataloader ({source.path}): {text}.'
                        for text in own.problems]
    report.notes += [f'{source.label}: {text}' for text in own.notes]
    return None if own.problems else annotations


def _count(cfg, source: Source, annotations: Annotations, report: Report) -> list:
    own = Report()
    counts = check_usage(cfg, source, annotations, own)
    report.problems += [f'{source.label}_dataloader ({source.path}): {text}.'
                        for text in own.problems]
    if not own.problems:
        report.notes += [f'{source.label}: {text}' for text in own.notes]
    report.summaries += own.summaries
    return counts


def examine(cfg, splits: Sequence[str]) -> tuple[Report, list[tuple[Source, Annotations]]]:
    """Check the data of a config without stopping.

    Args:
        cfg (Config): ``classes`` in another order than that of the file is repaired in place.
        splits (Sequence[str]): Which of 'train', 'val' and 'test'.

    Returns:
        tuple: What was found, and the data sets whose files are sound.
    """
    report = Report()
    sources = data_sources(cfg, splits)
    read = [(source, _examine_file(source, report)) for source in sources]
    before = len(report.problems)
    check_classes(cfg, sources, report)
    sound = [(source, annotations) for source, annotations in read if annotations is not None]
    if len(report.problems) == before:  # else nothing can be counted by class
        columns = {source.label: dict(_count(cfg, source, annotations, report))
                   for source, annotations in sound}
        names = list(dict.fromkeys(name for counts in columns.values() for name in counts))
        report.tables = table(['objects', *columns], [
            [name, *(counts.get(name, 0) for counts in columns.values())] for name in names])
    return report, sound


def check_annotations(cfg, splits: Sequence[str]) -> Report:
    """Check the data of a config, repair what is safe to repair, and refuse the rest.

    Args:
        cfg (Config): Changed in place: the order of ``classes``, and ``ann_file`` where a repaired
            copy is written into ``work_dir``.
        splits (Sequence[str]): Which of 'train', 'val' and 'test' will be used.

    Returns:
        Report: Counts and notes, for the user to read.

    Raises:
        UserError: One message with everything that is wrong.
    """
    report, sound = examine(cfg, splits)
    if report.problems:
        raise UserError('The data of this config cannot be used:\n' + '\n'.join(
            f'  - {problem}' for problem in report.problems)
            + '\n`mmcontainer check-data CONFIG` shows all of it.')
    for source, annotations in sound:
        if annotations.repairs:
            target = write_repaired(source.path, annotations.repairs,
                                    Path(cfg.work_dir, 'annotations'))
            read_instead(cfg, source, target)
            report.notes.append(f'{source.label}: {describe(annotations.repairs)}, in the copy '
                                f'{target}, which is read instead of {annotations.path}.')
    return report
