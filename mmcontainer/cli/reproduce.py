"""``tools/reproduce.py``: a row of a paper's table, from its config to a line in the ledger."""
import json
import math
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..engine.checkpoint_hook import numbered_checkpoints
from ..engine.summary import table
from ..errors import UserError
from ..fileio import write_text
from ..paper.rows import Row, load_rows, percent
from .config_changes import weight_hashes
from .console import quiet_libraries
from .reproduce_ledger import (
    LEDGER,
    append_entry,
    config_hash,
    describe_code,
    describe_environment,
    find_entry,
    read_ledger,
)
from .reproduce_plan import Plan, check_plan, describe, make_plan, shown
from .reproduce_small import write_small
from .tool import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, typed_command

_STATE = 'reproduce.json'
# Seconds that a tool has to end after Ctrl-C before it is told again.
_PATIENCE = 20


def say(text: str) -> None:
    """Print at once, so that it stands before what the tools print."""
    print(text, flush=True)


def reproduce(args) -> None:
    """List the rows, or reproduce one.

    Args:
        args (argparse.Namespace): Arguments of ``tools/reproduce.py``.

    Raises:
        UserError: Anything that is wrong before the work begins, in one message; or a tool failed.
    """
    if args.list or args.row is None:
        say('\n'.join(list_rows(LEDGER)))
        return
    quiet_libraries()
    plan = make_plan(args)
    say('\n'.join(describe(plan)))
    run = _read_state(plan)
    entry = find_entry(plan.ledger, run['run'])
    if entry is not None:
        say(f'This run is finished; it stands in {plan.ledger}, and nothing is done again. For '
            'another one choose another --work-dir.')
        say('\n'.join(_compare(plan.row, entry['found'])))
        return
    if args.dry_run:
        check_plan(plan, is_dry=True)
        say('--dry-run: nothing is wrong, and nothing was done.')
        return
    if plan.is_small:
        write_small(plan.row, plan.cfg, plan.work_dir)
    check_plan(plan, is_dry=False)
    _run(plan, run)


def _run(plan: Plan, run: dict[str, Any]) -> None:
    code = describe_code()
    if code not in run.setdefault('code', []):
        run['code'].append(code)
    try:
        if not plan.is_trained:
            run['sessions'] += 1
            run['weights'] = weight_hashes(plan.cfg)
            _execute(plan, run, 'train', plan.train_command())
        _execute(plan, run, 'test', plan.test_command())
    except KeyboardInterrupt:
        say(f'\nTo go on, run the same command again: {typed_command(sys.argv)}')
        raise
    found = _read_metrics(plan.work_dir / 'test')
    entry = dict(
        row=plan.row.name, small=plan.is_small, published=dict(plan.row.published), found=found,
        config=plan.row.config, config_hash=plan.hash,
        recipe_hash=config_hash(plan.cfg, with_seed=False), gpus=plan.gpus, images=plan.images,
        accumulate=plan.accumulate, changes=plan.changes, options=plan.options,
        curve=[point for point in read_curve(plan.work_dir, next(iter(found))) if point[0]],
        seconds=run['seconds'], cpu_seconds=run.get('cpu_seconds'), sessions=run['sessions'],
        command=shown(plan.train_command()),
        code=run['code'], weights=run.get('weights', {}), **describe_environment(),
        run=run['run'])
    append_entry(plan.ledger, entry)
    say(f'\n{plan.row.name}: written to {plan.ledger}')
    say('\n'.join(_compare(plan.row, found)))


def _read_state(plan: Plan) -> dict[str, Any]:
    """What is known of the run in a work dir; of a new one if there is none.

    Raises:
        UserError: The work dir belongs to something else.
    """
    path = plan.work_dir / _STATE
    if not path.is_file():
        if numbered_checkpoints(plan.work_dir):
            raise UserError(f'{plan.work_dir} holds checkpoints of a training that this tool did '
                            'not begin. Choose another folder with --work-dir.')
        return dict(run=secrets.token_hex(8), row=plan.row.name, config_hash=plan.hash,
                    sessions=0, seconds=dict(train=0., test=0.),
                    cpu_seconds=dict(train=0., test=0.))
    try:
        run = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read ({error}). Choose another --work-dir.') from error
    if (run['row'], run['config_hash']) != (plan.row.name, plan.hash):
        raise UserError(
            f'{plan.work_dir} holds a run of {run["row"]} with the config of hash '
            f'{run["config_hash"]}; this is {plan.row.name} with {plan.hash}. The config, the '
            'number of GPUs or a library has changed since. Go on with what it was begun with, or '
            'choose another folder with --work-dir.')
    return run


def _write_state(plan: Plan, run: dict[str, Any]) -> None:
    write_text(plan.work_dir / _STATE, json.dumps(run))


def _execute(plan: Plan, run: dict[str, Any], step: str, command: list[str]) -> None:
    """Run a tool; the time it took is kept also if it is interrupted.

    Raises:
        UserError: It failed.
        KeyboardInterrupt: It was interrupted.
    """
    say(f'\n$ {shown(command)}')
    _write_state(plan, run)
    begin, cpu_begin = time.monotonic(), _cpu_seconds()
    try:
        code = _wait(subprocess.Popen(command))
    finally:
        run['seconds'][step] += time.monotonic() - begin
        if 'cpu_seconds' in run:  # not of a run that an older version began
            run['cpu_seconds'][step] += _cpu_seconds() - cpu_begin
        _write_state(plan, run)
    if code in (EXIT_INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if code in (EXIT_TERMINATED, -signal.SIGTERM):
        raise Terminated
    if code:
        what = f'signal {-code} ended' if code < 0 else f'exit code {code} ended'
        raise UserError(f'{what} the step "{step}"; what it said stands above. When that is '
                        'mended, run the same command again: it goes on where it was.')


def _cpu_seconds() -> float:
    """What processors have spent so far on processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _wait(process: subprocess.Popen) -> int:
    try:
        return process.wait()
    except KeyboardInterrupt as interrupt:
        # A terminal sends Ctrl-C to the tool as well, and a second one would disturb its end.
        # SIGTERM is sent to one process.
        if isinstance(interrupt, Terminated):
            process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        raise


def _read_metrics(folder: Path) -> dict[str, float]:
    """What the latest evaluation in a work dir of ``tools/test.py`` found, in percent.

    Raises:
        UserError: It found nothing that could be evaluated.
    """
    logs = sorted(folder.glob('*/*.json'))
    metrics = json.loads(logs[-1].read_text(encoding='utf-8')) if logs else {}
    # COCO's sign for "no such objects" is -1. MMSegmentation's metrics have no prefix.
    found = {key: round(percent(key, value), 4) for key, value in metrics.items()
             if key not in ('time', 'data_time') and isinstance(value, (int, float))
             and math.isfinite(value) and value >= 0}
    if not found:
        raise UserError(f'The evaluation gave no numbers (its log is in {folder}): the model '
                        'detects nothing at all.')
    return found


def read_curve(work_dir: Path, metric: str) -> list[list[float]]:
    """[epoch, percent] of every validation of a training.

    Of one that counts iterations it has epoch 0 alone: MMEngine writes no other step of its
    validations.

    Args:
        work_dir (Path): Of ``tools/train.py``; a resumed training has a log of each session there.
        metric (str): As the log calls it.
    """
    curve = {}
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in log.read_text(encoding='utf-8').splitlines():
            try:
                point = json.loads(line)
            except ValueError:  # a session that was killed left half a line
                continue
            if metric in point:
                curve[point['step']] = round(percent(metric, point[metric]), 4)
    return sorted(map(list, curve.items()))


def _compare(row: Row, found: dict[str, float]) -> list[str]:
    """Lines of a table: what was published, and what was found."""
    names = [*row.published, *(key for key in found if key not in row.published)]
    return table(['', 'published', 'found'], (
        [name, f'{row.published[name]:.2f}' if name in row.published else '-',
         f'{found[name]:.2f}' if name in found else '-'] for name in names))


def list_rows(ledger: Path) -> Iterator[str]:
    """Lines of ``--list``: all rows that can be reproduced, then the others with the reason.

    Args:
        ledger (Path): Where results stand.
    """
    entries, problems = read_ledger(ledger)
    states = {entry['row']: _state(entry) for entry in entries if not entry.get('changes')}
    rows = load_rows().values()
    ready = [row for row in rows if row.config]
    header = ['row', 'published', 'config', 'weights', 'GPUs x images', 'hours (authors)', 'state']
    lines = table(header, (
        [f'  {row.name}', row.published_text, row.config, row.weights or '-',
         f'{row.gpus} x {row.images}', row.hours, states.get(row.name, 'not trained here')]
        for row in ready), texts=len(header))
    yield lines[0]
    heading = None
    for row, line in zip(ready, lines[1:]):
        found = f'{row.paper}, {row.table}' if row.paper else f'Beside the papers: {row.note}'
        if f'{found} ({row.data})' != heading:
            heading = f'{found} ({row.data})'
            yield heading
        yield line
    yield ''
    yield 'Without a config:'
    yield from table(['  row', 'published', 'in', 'reason'], (
        [f'  {row.name}', row.published_text, f'{row.paper}, {row.table}', row.reason]
        for row in rows if not row.config), texts=4)
    yield from (f'note: {problem}' for problem in problems)


def _state(entry: dict[str, Any]) -> str:
    main = next(iter(entry.get('published') or entry.get('found') or ['']))
    hours = sum((entry.get('seconds') or {}).values()) / 3600
    by = f' by {entry["by"]}' if entry.get('by') else ''
    return (f'{(entry.get("found") or {}).get(main, "?")} on {str(entry.get("date"))[:10]}{by}, '
            f'{hours:.1f} h on {entry.get("hardware")}')
