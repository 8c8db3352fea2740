"""Results on disk: a JSON file of cases, merged case by case, and the same as Markdown."""
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from mmcontainer.errors import UserError
from mmcontainer.fileio import write_text

# A case is what is measured in one run; measuring it again replaces it as a whole.
CASE_KEY = ('suite', 'name', 'passes', 'batch', 'size', 'dtype')
MACHINE_KEY = ('hardware', 'threads', 'allocator')


def case_key(case: dict) -> tuple:
    """Two cases with the same key measure the same: workload, hardware, threads and allocator."""
    values = [case.get(key) for key in CASE_KEY] + [case['machine'][key] for key in MACHINE_KEY]
    return tuple(str(value) for value in values)


def code_of(case: dict) -> str:
    """Commit that a case ran, which early results do not say."""
    return case['machine'].get('code', 'not recorded')


def load_cases(path: Path) -> list[dict]:
    """Cases of a file; none if there is no such file.

    Raises:
        UserError: If the file is no result of a benchmark.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        return json.loads(path.read_text(encoding='utf-8'))['cases']
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path} is no result of a benchmark ({error!r}): move it away, or name '
                        'another file.') from error


def merge_cases(old: Sequence[dict], new: Sequence[dict]) -> list[dict]:
    """``old`` with cases of ``new`` added, or put in place of the same case, in a fixed order."""
    merged = {case_key(case): case for case in old}
    merged.update((case_key(case), case) for case in new)
    return [merged[key] for key in sorted(merged)]


def save_cases(path: Path, cases: Sequence[dict]) -> None:
    """Merge cases into a file, which is replaced only once it is written."""
    path = Path(path)
    cases = json.loads(json.dumps(cases))  # as they will be read: tuples become lists
    text = json.dumps(dict(cases=merge_cases(load_cases(path), cases)), indent=1) + '\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def speedup(row: dict, reference: Optional[dict]) -> Optional[float]:
    """Speed relative to a reference: the median of the ratios within the rounds."""
    if reference is None or 'times' not in row or 'times' not in reference:
        return None
    return statistics.median(b / a for a, b in zip(row['times'], reference['times']))


def find_row(case: dict, form: str) -> Optional[dict]:
    """Row of a contestant."""
    return next((row for row in case['rows'] if row['form'] == form), None)


def describe_spread(row: dict) -> str:
    """Fastest and slowest round, relative to the median."""
    low, high = (bound / row['seconds'] - 1 for bound in (min(row['times']), max(row['times'])))
    return f'{100 * low:+.0f} / {100 * high:+.0f} %'


def describe_memory(row: dict) -> str:
    """Peak of PyTorch's allocator in MB; of a process of its own the peak that is resident."""
    return f'{row["memory_mb"]:.0f}' if 'memory_mb' in row else f'({row["resident_mb"]:.0f})'


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [header, ['---'] + ['---:'] * (len(header) - 1), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def format_ms(seconds: float) -> str:
    """Milliseconds with three digits, and never an exponent."""
    value = 1e3 * seconds
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def case_table(case: dict, reference: Optional[str] = None) -> str:
    """One case as a Markdown table.

    Args:
        case (dict): As stored.
        reference (str, optional): Contestant that the others are compared with; the first without.
    """
    reference = find_row(case, reference) if reference else case['rows'][0]
    images, rows = case.get('batch') or 1, []
    peak = case['machine']['gemm_gflops'].get(case['dtype'])
    has_flops = any('flops' in row for row in case['rows'])
    for row in case['rows']:
        if 'skipped' in row:
            rows.append([row['form'], f'skipped: {row["skipped"]}'] + [''] * (3 + 3 * has_flops))
            continue
        cells = [row['form'], format_ms(row['seconds'] / images), describe_spread(row)]
        ratio = speedup(row, reference)
        cells += ['' if ratio is None else f'{ratio:.2f} x', describe_memory(row)]
        if has_flops:
            reached = row['flops'] / row['seconds'] / 1e9
            share = '' if peak is None else f'{100 * reached / peak:.0f} %'
            cells += [f'{row["parameters"] / 1e6:.1f}', f'{reached:.0f}', share]
        rows.append(cells)
    header = ['', 'ms / image', 'spread', f'speed, {reference["form"]} = 1', 'memory, MB']
    if has_flops:
        header += ['params, M', 'GFLOP/s', 'of GEMM peak']
    return format_table(header, rows)


def decoder_table(case: dict) -> str:
    """Images per second of each decoder, as Markdown."""
    found = {row['form']: row['seconds'] for row in case['rows']}
    names = [form.partition(',')[0] for form in found if form.endswith('decode')]
    rows = [[name, f'{1e3 * found[f"{name}, decode"]:.1f}',
             f'{1e3 * found[f"{name}, whole pipeline"]:.1f}',
             f'{1 / found[f"{name}, whole pipeline"]:.0f}'] for name in names]
    return format_table(['decoder', 'decode, ms', 'whole pipeline, ms', 'images / s of a worker'],
                        rows)
