"""A hook that logs a summary when a run begins, and a table when an evaluation ends."""
import datetime
import itertools
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Optional

import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..compat import short_path
from ..type_names import type_name
from .deploy import unwrap

_NAMED_CLASSES = 12
# Counting reads every record: 100 000 images take ten seconds, more would delay the start.
_COUNTED_IMAGES = 100_000


def _millions(number: int) -> str:
    return f'{number / 1e6:.1f} M' if number >= 1e5 else f'{number:,}'


def describe_model(model: nn.Module) -> list[tuple[str, str]]:
    """Rows about a model: its names, and how many parameters it has and trains."""
    model = unwrap(model)
    backbone = getattr(model, 'backbone', None)
    name = type(model).__name__ + (f' with {type(backbone).__name__}' if backbone else '')
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    share = 'all' if trained == total else f'{_millions(trained)} of them'
    return [('model', name), ('parameters', f'{_millions(total)}, {share} trained')]


def leaf_datasets(dataset: Dataset) -> list[Dataset]:
    """The data sets inside of concatenated, repeated and balanced ones, in order."""
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    if inner is None:
        return [dataset]
    return [leaf for one in (inner if isinstance(inner, (list, tuple)) else [inner])
            for leaf in leaf_datasets(one)]


def count_objects(dataset: Dataset) -> Optional[Counter]:
    """Count the objects of every class, {label: number}, as the pipeline will see them.

    Returns:
        Counter | None: None where a data set cannot tell, or is too large to ask.
    """
    leaves = leaf_datasets(dataset)
    # MMEngine's own method only says that it has to be overridden.
    if any(getattr(type(leaf), 'get_cat_ids', BaseDataset.get_cat_ids) is BaseDataset.get_cat_ids
           for leaf in leaves) or sum(map(len, leaves)) > _COUNTED_IMAGES:
        return None
    return Counter(label for leaf in leaves for index in range(len(leaf))
                   for label in leaf.get_cat_ids(index))


def describe_classes(dataset: Dataset) -> str:
    """'2 (square 10, bar 8)', with the number of objects; of many classes the extremes only."""
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    names = [names] if isinstance(names, str) else list(names)
    counts = count_objects(dataset)
    if counts is None:
        shown = ', '.join(names[:_NAMED_CLASSES]) + (', ...' if len(names) > _NAMED_CLASSES else '')
        return f'{len(names)} ({shown})'
    rows = [(counts[label], name) for label, name in enumerate(names)]
    if len(rows) <= _NAMED_CLASSES:
        return f'{len(rows)} ({", ".join(f"{name} {number}" for number, name in rows)})'
    (fewest, rare), (most, common) = min(rows), max(rows)
    absent = [name for number, name in rows if number == 0]
    text = f'{len(rows)}, from {most} ({common}) to {fewest} ({rare})'
    return text if len(absent) < 2 else f'{text}; none of {len(absent)} of them'


def describe_data(dataset: Dataset) -> str:
    """'data/train.json: 12 images, 18 objects' of all files that a data set reads."""
    leaves = leaf_datasets(dataset)
    files = [str(getattr(leaf, 'ann_file', '') or getattr(leaf, 'data_root', '') or '')
             for leaf in leaves]
    text = f'{sum(map(len, leaves))} images'
    counts = count_objects(dataset)
    objects = sum(counts.values()) if counts is not None else 0
    if objects > 0 and objects != sum(map(len, leaves)):  # one each in classification
        text += f', {objects} objects'
    if len(dataset) != sum(map(len, leaves)):
        text += f', {len(dataset)} with repetitions'
    places = ', '.join(dict.fromkeys(filter(None, files)))
    return f'{text} ({places})' if places else text


def _describe_schedule(cfg) -> str:
    schedulers, texts = cfg.get('param_scheduler') or [], []
    if isinstance(schedulers, Mapping):  # one, or those of several optimizers by name
        schedulers = [schedulers] if 'type' in schedulers else schedulers.values()
    for one in itertools.chain.from_iterable(
            one if isinstance(one, list) else [one] for one in schedulers):
        if not isinstance(one, Mapping):
            continue
        unit = 'epochs' if one.get('by_epoch', True) else 'iterations'
        if one.get('milestones'):
            steps = ', '.join(map(str, one['milestones']))
            when = f'x {one.get("gamma", 0.1)} after {unit} {steps}'
        elif one.get('end') is not None:
            when = f'{unit} {one.get("begin", 0)} to {one["end"]}'
        else:
            when = f'by {unit}'
        texts.append(f'{type_name(one.get("type"))} ({when})')
    return ', then '.join(texts) or 'constant'


def _learning_rates(optim_wrapper) -> str:
    """Rates of all parameter groups before any schedule, and the kind of optimizer."""
    optimizer = getattr(optim_wrapper, 'optimizer', None)
    if optimizer is None:  # a dict of wrappers
        return type(optim_wrapper).__name__
    rates = [group.get('initial_lr', group['lr']) for group in optimizer.param_groups]
    low, high = min(rates), max(rates)
    text = f'{high:g}' if low == high else f'{low:g} to {high:g}'
    return f'{text}, {type(optimizer).__name__}'


def batch_size(loader: DataLoader) -> int:
    """Images per batch of one process."""
    return getattr(loader, 'batch_size', None) or getattr(
        getattr(loader, 'batch_sampler', None), 'batch_size', 1)


def describe_last_batch(loader: DataLoader) -> str:
    """', the last with 1 image' where the last batch of an epoch is not whole, else nothing."""
    sampler = getattr(loader.batch_sampler, 'sampler', None)
    if not isinstance(sampler, Sized):
        return ''
    batch = batch_size(loader)
    rest = len(sampler) - batch * (len(loader) - 1)
    return f', the last with {rest} image{"s" * (rest > 1)}' if 0 < rest < batch else ''


def describe_training(runner) -> list[tuple[str, str]]:
    """Rows about batches, learning rate and length of a training."""
    loader, loop, cfg = runner.train_dataloader, runner.train_loop, runner.cfg
    batch = batch_size(loader)
    accumulated = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    processes = get_world_size()
    factors = f'{batch} images x {processes} process{"es" * (processes > 1)}'
    if accumulated > 1:
        factors += f' x {accumulated} accumulated'
    if isinstance(loop, EpochBasedTrainLoop):
        epochs = f'{loop.max_epochs} epoch{"s" * (loop.max_epochs > 1)}'
        length = (f'{epochs} of {len(loader)} iterations{describe_last_batch(loader)}'
                  + (f', goes on after {runner.epoch}' if runner.epoch else ''))
    else:
        length = (f'{loop.max_iters} iterations'
                  + (f', goes on after {runner.iter}' if runner.iter else ''))
    return [('batch', f'{factors} = {batch * processes * accumulated} images a step'),
            ('lr', f'{_learning_rates(runner.optim_wrapper)}; {_describe_schedule(cfg)}'),
            ('length', length)]


def describe_place(runner) -> list[tuple[str, str]]:
    """Rows about the device, and where results go."""
    device = next(runner.model.parameters()).device
    name = (torch.cuda.get_device_name(device) if device.type == 'cuda' else
            f'{torch.get_num_threads()} thread{"s" * (torch.get_num_threads() > 1)}')
    return [('device', f'{device.type} ({name})'), ('work dir', short_path(runner.work_dir)),
            ('full log', short_path(os.path.join(runner.log_dir, f'{runner.timestamp}.log')))]


def layout(title: str, rows: list[tuple[str, str]]) -> str:
    """A title and aligned rows below it, as one text."""
    width = max(len(name) for name, _ in rows)
    return '\n'.join([title, *(f'  {name:{width}}  {text}' for name, text in rows)])


def table(header: Sequence, rows: Iterable[Sequence], texts: int = 1) -> list[str]:
    """Lines of a table whose first columns, so many, are text, and the others are numbers."""
    rows = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ['  '.join([*(cell.ljust(width) for cell, width in zip(row[:texts], widths)),
                       *(cell.rjust(width) for cell, width in zip(row[texts:], widths[texts:]))])
            .rstrip() for row in rows]


def metrics_table(metrics: Mapping[str, float]) -> list[str]:
    """Lay metrics out as a table.

    COCO's get a row for boxes and one for masks, others one for what stands before the slash; -1 is
    COCO's sign for "no such objects" and shown as a dash. Values of single classes are left out,
    because the metric itself logs a table of them.
    """
    rows: dict[str, dict[str, str]] = {}
    for key, value in metrics.items():
        prefix, _, name = key.rpartition('/')
        if key.endswith('_precision') and prefix == 'coco' or not isinstance(value, (int, float)):
            continue
        kind = re.match(r'(bbox|segm|proposal)_(?=m?A[PR])', name)
        row = f'{prefix}/{kind[1]}' if kind else prefix or 'metric'
        text = '-' if value == -1 else f'{value:.3f}' if abs(value) < 1000 else f'{value:g}'
        rows.setdefault(row, {})[name[kind.end():] if kind else name] = text
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    return table(['', *columns], [[row, *(cells.get(column, '') for column in columns)]
                                  for row, cells in rows.items()]) if rows else []


class SummaryHook(Hook):
    """Logs what is trained or tested on what and how, when to expect the next line, and results."""

    # After the hooks that change the model before it runs.
    priority = 'VERY_LOW'

    def __init__(self):
        self._begin = 0.
        self._first = True

    def before_train(self, runner) -> None:
        if not is_main_process():
            return
        dataset = runner.train_dataloader.dataset
        rows = [*describe_model(runner.model), ('training', describe_data(dataset))]
        if runner.val_loop is not None:
            rows.append(('validation', describe_data(runner.val_dataloader.dataset)))
        rows += [('classes', describe_classes(dataset)), *describe_training(runner),
                 ('seed', str(runner.seed)), *describe_place(runner)]
        runner.logger.info(layout('Training', rows))

    def before_test(self, runner) -> None:
        if not is_main_process():
            return
        dataset = runner.test_dataloader.dataset
        runner.logger.info(layout('Testing', [
            *describe_model(runner.model)[:1], ('data', describe_data(dataset)),
            ('classes', describe_classes(dataset)), *describe_place(runner)]))

    def before_train_epoch(self, runner) -> None:
        self._begin = time.monotonic()

    before_val_epoch = before_test_epoch = before_train_epoch

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        interval = _log_interval(runner)
        if self._first and interval > 1 and is_main_process():
            # Once, because the first line of progress may be minutes away.
            runner.logger.info(f'The first iteration took {time.monotonic() - self._begin:.1f} s. '
                               f'A line follows after every {interval}.')
        self._first = False

    def after_val_epoch(self, runner, metrics=None) -> None:
        when = (f'epoch {runner.epoch}' if isinstance(runner.train_loop, EpochBasedTrainLoop)
                else f'iteration {runner.iter}')
        self._report(runner, f'Validation after {when}', runner.val_loop, metrics)

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._report(runner, 'Test', runner.test_loop, metrics)

    def _report(self, runner, title: str, loop: BaseLoop, metrics: Optional[Mapping]) -> None:
        if not is_main_process():
            return
        took = datetime.timedelta(seconds=round(time.monotonic() - self._begin))
        lines = [f'{title}: {len(loop.dataloader.dataset)} images in {took}',
                 *(f'  {line}' for line in metrics_table(metrics or {}))]
        runner.logger.info('\n'.join(lines))


def _log_interval(runner) -> int:
    return next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 1)
