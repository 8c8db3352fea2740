"""What reproducing a row takes: its config, options, commands, and the checks before any work."""
import copy
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook

from ..checkpoints import CorruptCheckpointError, check_file
from ..compat import own_folder, short_path
from ..data_check import check_data, examine
from ..engine import PreciseBNHook
from ..errors import UserError, did_you_mean
from ..paper.rows import Row, load_rows
from ..type_names import type_name
from .config_changes import check_precision, check_pretrained
from .configs import load_config
from .data_root import set_data_root
from .paths import check_unclaimed, check_writable_folder
from .reproduce_ledger import LEDGER, config_hash
from .reproduce_small import small_config
from .train import check_all

_RUNS = Path('work_dirs', 'reproduce')


@dataclass(frozen=True)
class Plan:
    """How a row will be reproduced.

    Attributes:
        row: The row.
        cfg: Its config, with ``changes`` and ``options``, without folders of this machine.
        config: The file that the tools read.
        changes: What the user changes of the recipe by ``--cfg-options``.
        options: What has to change so that a step has the recipe's images.
        gpus: Processes.
        accumulate: Steps whose gradients are added up.
        work_dir: Folder of logs and checkpoints.
        data_root: Folder of the data; None for that of the config.
        ledger: File that gets the result.
        is_small: Whether it runs on generated data.
        hash: Of ``cfg``, see :func:`config_hash`.
    """
    row: Row
    cfg: Config
    config: Path
    changes: dict[str, Any]
    options: dict[str, Any]
    gpus: int
    accumulate: int
    work_dir: Path
    data_root: Optional[str]
    ledger: Path
    is_small: bool
    hash: str

    @property
    def images(self) -> int:
        """Images per process and step."""
        return self.cfg.train_dataloader.batch_size

    @property
    def fits(self) -> bool:
        """Whether an iteration has the images of the recipe; DINO on generated ones need not."""
        return (self.gpus * self.accumulate == self.row.gpus
                or (self.is_small and self.row.task == 'DINO'))

    @property
    def checkpoint(self) -> Path:
        """The file that is there when the training has ended."""
        length = self.cfg.train_cfg
        name = f'iter_{length.max_iters}' if 'max_iters' in length else f'epoch_{length.max_epochs}'
        return self.work_dir / f'{name}.pth'

    @property
    def is_trained(self) -> bool:
        """Whether the training has ended."""
        try:
            check_file(self.checkpoint)
        except (CorruptCheckpointError, OSError):
            return False
        return True

    @property
    def tested(self) -> Path:
        """The checkpoint whose numbers count: the best one, if the recipe keeps it, or the last."""
        if not self.cfg.default_hooks.checkpoint.get('save_best'):
            return self.checkpoint
        # MMEngine removes the one before it; a training that was killed in between leaves both.
        return max(self.work_dir.glob('best_*.pth'), key=lambda file: file.stat().st_mtime,
                   default=self.work_dir / 'best_*.pth')

    def train_command(self) -> list[str]:
        """Program and arguments of the training; it goes on where there are checkpoints."""
        return [*self._launch('train', []), *self._folders(self.work_dir), '--resume',
                *self._options()]

    def test_command(self) -> list[str]:
        """Program and arguments of the evaluation."""
        return [*self._launch('test', [short_path(self.tested)]),
                *self._folders(self.work_dir / 'test'), *self._options()]

    def _launch(self, tool: str, arguments: list[str]) -> list[str]:
        tools, python = own_folder('configs').resolve().parent / 'tools', short_path(sys.executable)
        if self.gpus == 1:
            return [python, short_path(tools / f'{tool}.py'), short_path(self.config), *arguments]
        return ['env', f'PYTHON={python}', 'bash', short_path(tools / f'dist_{tool}.sh'),
                short_path(self.config), *arguments, str(self.gpus)]

    def _folders(self, work_dir: Path) -> list[str]:
        root = [] if self.data_root is None else ['--data-root', self.data_root]
        return ['--work-dir', short_path(work_dir), *root]

    def _options(self) -> list[str]:
        options = {**self.changes, **self.options}
        words = [f'{key}={str(value).replace(" ", "")}' for key, value in options.items()]
        return ['--cfg-options', *words] if words else []


def shown(command: list[str]) -> str:
    """A command as one would type it, with a pattern where a best checkpoint has no name yet."""
    return ' '.join(word if word.endswith('best_*.pth') else shlex.quote(word) for word in command)


def find_row(name: str) -> Row:
    """Find a row that has a config.

    Raises:
        UserError: There is no such row, with the names that come closest; or it has no config,
            with the reason.
    """
    rows = load_rows()
    if name not in rows:
        raise UserError(f'There is no row {name!r}.{did_you_mean(name, rows, 4)} --list shows all '
                        'of them.')
    row = rows[name]
    if row.config is None:
        raise UserError(f'{name} ({row.title}; {row.paper}, {row.table}) cannot be reproduced: '
                        f'{row.reason}.')
    return row


def make_plan(args) -> Plan:
    """Plan what the command line asks for; writes nothing.

    Args:
        args (argparse.Namespace): Arguments of ``tools/reproduce.py``.

    Raises:
        UserError: No such row, or a config that cannot be read.
    """
    row = find_row(args.row)
    gpus = args.gpus or _most_gpus(row)
    changes = args.cfg_options or {}
    work_dir = Path(args.work_dir).expanduser() if args.work_dir else _default_work_dir(
        row, changes, args.small)
    # In a checkout, where it is and not a link.
    config = own_folder('configs').resolve() / row.config
    cfg, data_root, ledger = load_config(str(config), changes), args.data_root, LEDGER
    if args.small:
        small_config(cfg)
        try:
            cfg.merge_from_dict(changes)
        except KeyError as error:
            raise UserError(f'--cfg-options: the shortened recipe of --small lacks what is to be '
                            f'changed ({error.args[0]}).') from error
        config, data_root = work_dir / 'small.py', str(work_dir / 'data')
        ledger = work_dir / LEDGER.name
    # A remainder is refused by check_plan.
    # DINO's loss is one of a whole iteration (DINOHook); _check_batch says so.
    factor = 1 if row.task == 'DINO' else max(1, row.gpus // gpus)
    options = accumulation_options(cfg, factor)
    cfg.merge_from_dict(options)
    return Plan(row, cfg, config, changes, options, gpus, factor, work_dir, data_root, ledger,
                args.small, config_hash(cfg))


def _default_work_dir(row: Row, changes: Mapping[str, Any], small: bool) -> Path:
    """'work_dirs/reproduce/ROW,seed=1': one for each of the changed recipes."""
    words = [row.name, *(f'{key.split(".")[-1]}={value}' for key, value in changes.items())]
    return _RUNS / (re.sub(r'[^\w.,=-]+', '_', ','.join(words)) + ('_small' if small else ''))


def _most_gpus(row: Row) -> int:
    """As many GPUs of this machine as divide those of the recipe; 1 without a GPU."""
    found = torch.cuda.device_count()
    return max([number for number in range(1, found + 1) if row.gpus % number == 0], default=1)


def accumulation_options(cfg, factor: int) -> dict[str, Any]:
    """Options that spread every step of a recipe over several ones with as many images less.

    What counts iterations, of which there are then ``factor`` times as many, is multiplied: the
    length of trainings that count them, intervals, schedules, averages of the weights, and the
    batches from which ``PreciseBNHook`` takes statistics.

    Args:
        cfg (Config): The recipe; not changed.
        factor (int): Steps whose gradients are added up.

    Returns:
        dict: Dotted keys to values; empty if the factor is 1.
    """
    if factor == 1:
        return {}
    options = {'optim_wrapper.accumulative_counts': factor}
    if 'max_iters' in cfg.train_cfg:
        for section, keys in (('train_cfg', ('max_iters', 'val_interval')),
                              ('default_hooks.checkpoint', ('interval', ))):
            node = cfg.train_cfg if section == 'train_cfg' else cfg.default_hooks.checkpoint
            options.update({f'{section}.{key}': factor * node[key] for key in keys if key in node})
    for index, schedule in enumerate(cfg.get('param_scheduler') or []):
        if schedule.get('by_epoch', True):
            continue
        for key in ('begin', 'end', 'milestones', 'T_max', 'total_iters', 'step_size'):
            value = schedule.get(key)
            if value:
                options[f'param_scheduler.{index}.{key}'] = (
                    factor * value if isinstance(value, int) else [factor * one for one in value])
    for index, hook in enumerate(cfg.get('custom_hooks') or []):
        kind = type_name(hook.get('type'))
        if kind == EMAHook.__name__:
            options[f'custom_hooks.{index}.interval'] = factor * hook.get('interval', 1)
        elif kind == PreciseBNHook.__name__:
            options[f'custom_hooks.{index}.num_iters'] = factor * hook.get('num_iters', 200)
    return options


def _check_batch(plan: Plan) -> None:
    """Images per process x processes x accumulation has to be the recipe's."""
    row, images = plan.row, plan.images
    if plan.fits:
        return
    if row.task == 'DINO':
        raise UserError(f'--gpus {plan.gpus}: the recipe has {row.gpus} GPUs x {images} images, '
                        'and DINO cannot accumulate gradients: batch norms, centre and teacher '
                        f'need a whole iteration. Take {row.gpus} GPUs, or train with fewer images '
                        'by tools/train.py --auto-scale-lr.')
    fitting = [str(gpus) for gpus in range(1, row.gpus + 1) if row.gpus % gpus == 0]
    raise UserError(
        f'--gpus {plan.gpus}: the recipe has {row.gpus * images} images per iteration ({row.gpus} '
        f'GPUs x {images}). {plan.gpus} GPUs x {images} images cannot make up as many, whatever is '
        f'accumulated: choose {", ".join(fitting[:-1])} or {fitting[-1]} GPUs, or write a config '
        'with another number of images per GPU and train it with tools/dist_train.sh.')


def _check_gpus(plan: Plan) -> None:
    found = torch.cuda.device_count()
    if torch.cuda.is_available() and plan.gpus > found:
        raise UserError(f'--gpus {plan.gpus}: this machine has {found}.')


def _check_weights(plan: Plan) -> None:
    try:
        check_pretrained(plan.cfg)
    except CorruptCheckpointError as error:
        raise UserError(str(error)) from error


def _check_data(plan: Plan) -> None:
    cfg = copy.deepcopy(plan.cfg)
    if plan.data_root is not None:
        set_data_root(cfg, plan.data_root)
    try:
        check_data(cfg, ('train', 'val', 'test'))
    except UserError as error:
        if not plan.row.small_of:
            raise
        raise UserError(f'{error}\n  - this is {plan.row.data}: docs/results.md says where it is '
                        'from, how it has to lie, and how lists of a part are made') from error
    problems = examine(cfg, ('train', 'test'))[0].problems
    if problems:
        raise UserError('The data cannot be used:\n' + '\n'.join(f'  - {one}' for one in problems))


def check_plan(plan: Plan, is_dry: bool) -> None:
    """Check all that can be checked before the work begins.

    Args:
        plan (Plan): What is going to be done.
        is_dry (bool): Write nothing, so that the work dir is not tried, nor generated data.

    Raises:
        UserError: One message with everything that is wrong.
    """
    checks = [_check_batch, _check_gpus]
    if not plan.is_trained:
        checks += [_check_weights, lambda plan: check_precision(plan.cfg)]
    if not (plan.is_small and is_dry):
        checks.append(_check_data)
    if not is_dry:
        checks.append(lambda plan: check_unclaimed(
            check_writable_folder(plan.work_dir, '--work-dir')))
        checks.append(lambda plan: check_writable_folder(plan.ledger.parent, 'the ledger in'))
    check_all(*(lambda check=check: check(plan) for check in checks))


def describe(plan: Plan) -> Iterator[str]:
    """Lines about a plan: what, with how many images, and the commands."""
    row, images = plan.row, plan.images
    where = f'{row.paper}, {row.table}' if row.paper else row.note
    yield f'{row.name}: {row.title} ({where})'
    if plan.is_small:
        yield ('--small: the same steps on a few generated images. The numbers mean nothing, and '
               'go into a ledger of their own.')
    elif row.note and row.paper:
        yield f'note: {row.note}'
    yield f'config: {short_path(plan.config)} (hash {plan.hash})'
    if plan.changes:
        yield 'note: --cfg-options changes the recipe; the ledger says so.'
    if not plan.fits:  # check_plan says why
        return
    accumulated = f' x {plan.accumulate} steps accumulated' if plan.accumulate > 1 else ''
    yield (f'{images} images x {plan.gpus} process{"es" * (plan.gpus > 1)}{accumulated} = '
           f'{images * plan.gpus * plan.accumulate} per iteration')
    if plan.accumulate > 1 and 'SyncBN' in str(plan.cfg.model):
        yield (f'note: SyncBN sees the {images * plan.gpus} images of a step, and not the '
               f'{row.gpus * images} of an iteration as in the recipe.')
    # Process i of n takes every nth of a, a, a, b, b, b, ...
    sampler = plan.cfg.train_dataloader.get('sampler') or {}
    repeats = sampler.get('num_repeats', 3)
    if type_name(sampler.get('type')) == 'RepeatAugSampler' and plan.gpus < repeats:
        yield (f'note: with fewer than {repeats} processes, RepeatAugSampler puts copies of an '
               'image into one batch, and batch norms and mixup see fewer images than in the '
               'recipe (docs/imagenet.md).')
    yield 'commands:'
    yield f'  {shown(plan.train_command())}'
    yield f'  {shown(plan.test_command())}'
