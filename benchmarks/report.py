"""Write docs/performance.md and its pictures from the results; no number is typed.

    python -m benchmarks.report

Reads every JSON file of the harness in benchmarks/results/. Sentences about architectures stand in
``report_text``; whatever was measured comes from the files.
"""
import argparse
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from mmcontainer.cli.tool import run_tool
from mmcontainer.errors import UserError
from mmcontainer.fileio import write_text

from . import report_text
from .floors import (
    BIG,
    LIGHT,
    RESNET,
    SWIN,
    describe_machine,
    floors_table,
    machine_key,
    name_threads,
    same_work,
    select,
)
from .plots import draw
from .store import (
    code_of,
    decoder_table,
    describe_memory,
    describe_spread,
    find_row,
    format_ms,
    format_table,
    load_cases,
    speedup,
)

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE, IMAGES = ROOT / 'benchmarks' / 'results', ROOT / 'docs' / 'performance.md', 'images'
FILES = ('detectors', 'backbones', 'ops', 'training_step', 'data_pipeline')
NOT_MEASURED = ['Not measured yet.', '']


def summary_section(cases: Sequence[dict]) -> list[str]:
    """A paragraph and a table: one image in a detector, in both types."""
    found = select(cases, suite='detectors', passes='inference', batch=1, size=BIG, dtype='float32')
    if not found:
        return NOT_MEASURED
    full = max(found, key=lambda case: (case['machine']['date'], case['machine']['threads']))
    low = same_work(full, cases, 'bfloat16')
    rows = []
    for row in full['rows']:
        other = low and find_row(low, row['form'])
        rows.append([row['form'], _ms(row, full),
                     _ms(other, low) if other and 'times' in other else '',
                     _speed(row, find_row(full, RESNET)), describe_memory(row),
                     f'{row["parameters"] / 1e6:.1f}'])
    ours, swin, resnet = (find_row(full, form) for form in (LIGHT, SWIN, RESNET))
    text = ''
    if ours and swin and resnet:
        text = (f'With Container-Light, RetinaNet takes {_ms(ours, full)} ms for an image of 800 x '
                f'1333 pixels on {name_threads(full)} of {full["machine"]["hardware"]}. It is '
                f'{speedup(ours, resnet):.2f} times as fast as with ResNet-50 and '
                f'{speedup(ours, swin):.2f} times as fast as with Swin-T.')
        if low:
            text += (f' In bfloat16 (`tools/test.py --amp bf16`) it takes '
                     f'{_ms(find_row(low, LIGHT), low)} ms.')
    header = ['RetinaNet with', 'float32, ms', 'bfloat16, ms', 'speed in float32, ResNet-50 = 1',
              'memory in float32, MB', 'params, M']
    return [*_wrap(text + ' Nothing has been measured on a GPU.'), '',
            format_table(header, rows), '']


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text.strip(), 100)


def _ms(row: dict, case: dict) -> str:
    return format_ms(row['seconds'] / (case.get('batch') or 1))


def _speed(row: dict, reference: Optional[dict]) -> str:
    ratio = speedup(row, reference)
    return '' if ratio is None else f'{ratio:.2f} x'


def _share_of_peak(row: dict, case: dict) -> str:
    peak = case['machine']['gemm_gflops'].get(case['dtype'])
    if not peak or 'flops' not in row:
        return ''
    return f'{100 * row["flops"] / row["seconds"] / 1e9 / peak:.0f} %'


def _cells(row: Optional[dict], case: Optional[dict]) -> list[str]:
    """Time, spread, speed, memory and share of the peak of one contestant in one type."""
    if row is None or 'times' not in row:
        return [f'skipped: {row["skipped"]}' if row else '', '', '', '', '']
    return [_ms(row, case), describe_spread(row), _speed(row, case['rows'][0]),
            describe_memory(row), _share_of_peak(row, case)]


def types_table(full: dict, low: Optional[dict]) -> str:
    """One workload as a Markdown table, float32 and bfloat16 side by side.

    Args:
        full (dict): The case in float32.
        low (dict, optional): The same workload, machine and code in bfloat16.
    """
    first = full['rows'][0]['form']
    header = ['', 'params, M', 'float32: ms / image', 'spread', f'speed, {first} = 1', 'MB',
              'of peak']
    if low:
        header += ['bfloat16: ms / image', 'spread', 'speed', 'MB', 'of peak', 'gain']
    rows = []
    for row in full['rows']:
        parameters = f'{row["parameters"] / 1e6:.1f}' if 'parameters' in row else ''
        cells = [row['form'], parameters, *_cells(row, full)]
        if low:
            other = find_row(low, row['form'])
            both = other and 'times' in other and 'times' in row
            cells += [*_cells(other, low),
                      f'{row["seconds"] / other["seconds"]:.2f} x' if both else '']
        rows.append(cells)
    return format_table(header, rows)


def where(case: dict, cases: Sequence[dict]) -> list[str]:
    """Lines that say on what a case was measured, if that is not the same for all cases."""
    if len({describe_machine(other) for other in cases}) == 1:
        return []
    return [describe_machine(case), '']


def suite_section(suite: str, cases: Sequence[dict]) -> list[str]:
    """A table per workload, machine and code; a type without its partner has its own."""
    lines = []
    for case in select(cases, suite=suite):
        partner = None
        if case['dtype'] == 'bfloat16' and same_work(case, cases, 'float32'):
            continue  # stands beside float32
        if case['dtype'] == 'float32':
            partner = same_work(case, cases, 'bfloat16')
        size = '{} x {}'.format(*case['size'])
        kind = '' if case['dtype'] == 'float32' else f', {case["dtype"]}'
        lines += [f'### {case["passes"].capitalize()}, {case["batch"]} x {size}{kind}, '
                  f'{name_threads(case)}', '', *where(case, cases), types_table(case, partner), '']
    return lines or NOT_MEASURED


def growth_section(cases: Sequence[dict]) -> list[str]:
    """Time against the number of pixels, per machine, one image in float32."""
    lines = []
    groups: dict[tuple, list[dict]] = {}
    for case in select(cases, suite='backbones', passes='inference', batch=1, dtype='float32'):
        groups.setdefault((*machine_key(case), code_of(case)), []).append(case)
    for group in groups.values():
        group = sorted(group, key=lambda case: math.prod(case['size']))
        if len(group) < 2:
            continue
        first, last = group[0], group[-1]
        pixels = math.log(math.prod(last['size']) / math.prod(first['size']))
        rows = []
        for row in last['rows']:
            found = [find_row(case, row['form']) for case in group]
            if any(other is None or 'times' not in other for other in found):
                continue
            rows.append([row['form']] + [f'{1e3 * other["seconds"]:.0f}' for other in found]
                        + [f'{math.log(found[-1]["seconds"] / found[0]["seconds"]) / pixels:.2f}'])
        sizes = ['{} x {}, ms'.format(*case['size']) for case in group]
        lines += [f'{name_threads(last).capitalize()}:', '', *where(last, cases),
                  format_table(['', *sizes, 'exponent'], rows), '']
    return [*lines, report_text.GROWTH, ''] if lines else NOT_MEASURED


def ops_section(cases: Sequence[dict]) -> list[str]:
    """One row per operator and pass."""
    rows = []
    for case in cases:
        explicit, fast = case['rows'][0], case['rows'][-1]
        rows.append([f'{case["name"]}, {case["passes"]}', str(case['machine']['threads']),
                     f'{1e3 * explicit["seconds"]:.1f}', f'{1e3 * fast["seconds"]:.1f}',
                     f'{speedup(fast, explicit):.1f} x', f'{explicit["memory_mb"]:.0f}',
                     f'{fast["memory_mb"]:.0f}'])
    header = ['float32', 'threads', 'explicit, ms', 'mmcontainer, ms', 'speed', 'explicit, MB',
              'mmcontainer, MB']
    return [format_table(header, rows), ''] if cases else NOT_MEASURED


def step_section(cases: Sequence[dict]) -> list[str]:
    """Parts of a training step and of the start."""
    lines = []
    for case in cases:
        total = sum(row['seconds'] for row in case['rows'])
        rows = [[row['form'], f'{1e3 * row["seconds"]:.1f}',
                 f'{100 * row["seconds"] / total:.1f} %'] for row in case['rows']]
        rows.append(['together', f'{1e3 * total:.1f}', '100 %'])
        lines += [f'### {case["name"]}, {case["passes"]}, batch {case["batch"]}, {case["dtype"]}',
                  '', format_table(['', 'ms', 'share'], rows), '']
    return lines or NOT_MEASURED


def data_section(cases: Sequence[dict]) -> list[str]:
    """Images per second of a loader's worker, by decoder."""
    lines = []
    for case in cases:
        usual = find_row(case, 'OpenCV, whole pipeline')['seconds']
        lines += [f'{describe_machine(case)}, one worker:', '', decoder_table(case), '',
                  *_wrap(report_text.DATA.format(usual=f'{1 / usual:.0f}')), '']
    return lines or NOT_MEASURED


def render(cases: Sequence[dict]) -> str:
    """The whole page.

    Args:
        cases (Sequence[dict]): As :func:`benchmarks.store.load_cases` reads them.
    """
    versions = sorted({', '.join(f'{key} {value}' for key, value in
                                 case['machine']['versions'].items()) for case in cases})
    measured = sorted({describe_machine(case) for case in cases})
    # One worker without a network: where it ran says nothing about the rest.
    data = select(cases, suite='data_pipeline')
    cases = [case for case in cases if case not in data]
    images = [f'![{name}](images/performance_{name}.png)\n'
              for name in ('time', 'memory', 'parameters')]
    lines = [
        '# Performance', '', *summary_section(cases),
        *_wrap(f'Machine, allocator, date and commit: {"; ".join(measured)}. Software: '
               f'{"; ".join(versions)}. `python -m benchmarks.report` writes this page from the '
               'files in `benchmarks/results`; do not edit it.'), '',
        report_text.METHOD,
        '## Floors', '', floors_table(cases), '', report_text.FLOORS, report_text.LIMITS,
        '## How the cost grows with the image', '', *growth_section(cases), *images,
        '## In a detector: RetinaNet', '', *suite_section('detectors', cases),
        '## Backbones alone', '', *suite_section('backbones', cases),
        '## Operators', '', *ops_section(select(cases, suite='ops')),
        '## A whole training step', '',
        *step_section(select(cases, suite='training_step')),
        '## Data', '', *data_section(data), report_text.REPEAT]
    return '\n'.join(lines)


def load_results(folder: Path = RESULTS) -> list[dict]:
    """All cases of the harness in a folder.

    Raises:
        UserError: If there are none.
    """
    cases = [case for name in FILES for case in load_cases(Path(folder) / f'{name}.json')]
    if not cases:
        raise UserError(f'{folder} has no results: run python -m benchmarks.backbones --json '
                        f'{folder}/backbones.json first.')
    return cases


def main() -> None:
    """Write the page and the pictures."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.report',
                                     description=__doc__.splitlines()[0])
    parser.parse_args()
    cases = load_results()
    text = render(cases)
    write_text(PAGE, text)
    for path in draw(select(cases, suite='backbones'), PAGE.parent / IMAGES):
        print(path)
    print(PAGE)


if __name__ == '__main__':
    run_tool(main)
