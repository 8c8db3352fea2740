"""The Markdown report of ``benchmarks.qualify``, from the files that its parts have written."""
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from .store import case_table, find_row, format_ms, format_table, load_cases, speedup

REFERENCES = ('ResNet-50', 'Swin-T')
# Of a log of a part that failed.
TAIL_LINES = 15


def render(out: Path, report: dict) -> str:
    """The page.

    Args:
        out (Path): Folder of the parts' files.
        report (dict): What ``report.json`` holds.
    """
    sections: dict[str, Callable] = dict(
        tests=tests_section, operators=operators_section, backbones=networks_section,
        detectors=networks_section, compiled=networks_section, training_step=steps_section,
        demo=trainings_section, classifier=trainings_section)
    lines = ['# Qualification of a machine', '', *header(report), '', '## Parts', '',
             parts_table(report['parts']), '']
    for part in report['parts']:
        lines += [f'## {part["what"][0].upper()}{part["what"][1:]}', '']
        if part['status'] == 'skipped':
            lines += [f'Left out: {part["reason"]}.', '']
            continue
        if part['status'] != 'passed':
            lines += failure(out, part)
        lines += [*sections[part['name']](out, part['name']), '']
    return '\n'.join(lines)


def header(report: dict) -> list[str]:
    """What was qualified."""
    lines = [f'- {key}: {report[key]}' for key in
             ('hardware', 'capability', 'cpu', 'cores', 'torch', 'cuda', 'cudnn', 'python', 'code',
              'date') if key in report]
    if report['tiny']:
        lines = ['**Sizes that only show that everything runs: no number below means anything.**',
                 '', *lines]
    return lines


def parts_table(parts: Sequence[dict]) -> str:
    """What became of every part."""
    return format_table(['part', 'result', 'seconds', 'limit'], [
        [part['what'], part['status'], f'{part["seconds"]:.0f}', str(part['limit'])]
        for part in parts])


def failure(out: Path, part: dict) -> list[str]:
    """Why a part did not pass: the end of what it printed."""
    text = (out / part['log']).read_text(encoding='utf-8', errors='replace')
    tail = text.rstrip().splitlines()[-TAIL_LINES:]
    return [f'**{part["status"]}** after {part["seconds"]:.0f} s. The end of {part["log"]}:', '',
            '```', *tail, '```', '']


def tests_section(out: Path, name: str) -> list[str]:
    """Numbers of tests, and which of them failed or were skipped, and why."""
    file = out / f'{name}.xml'
    if not file.exists():
        return ['The tests have not come to their end.']
    failed, skipped, passed = [], {}, 0
    for test in ElementTree.parse(file).iter('testcase'):
        kinds = {child.tag: child for child in test}
        if 'failure' in kinds or 'error' in kinds:
            failed.append(f'- {test.get("classname")}.{test.get("name")}')
        elif 'skipped' in kinds:
            reason = kinds['skipped'].get('message', '')
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            passed += 1
    lines = [f'{passed} passed, {len(failed)} failed, {sum(skipped.values())} skipped.']
    lines += ['', 'Failed:', '', *failed] if failed else []
    if skipped:
        lines += ['', 'Skipped:', '', *(f'- {number}: {reason}'
                                        for reason, number in skipped.items())]
    return lines


def _title(case: dict) -> str:
    size = ' x '.join(map(str, case['size'] or ()))
    parts = [case.get('name'), f'{case["batch"]} x {size}' if size else None, case['passes'],
             case['dtype']]
    return ', '.join(part for part in parts if part)


def networks_section(out: Path, name: str) -> list[str]:
    """The ratios that travel from machine to machine, then every case."""
    cases = load_cases(out / f'{name}.json')
    if not cases:
        return ['Nothing was measured.']
    rows = []
    for case in cases:
        references = [find_row(case, reference) for reference in REFERENCES]
        for row in case['rows']:
            if row['form'] in REFERENCES or 'times' not in row:
                continue
            ratios = [speedup(row, reference) for reference in references]
            rows.append([f'{row["form"]}: {_title(case)}']
                        + ['' if ratio is None else f'{ratio:.2f} x' for ratio in ratios])
    header = ['speed'] + [f'{reference} = 1' for reference in REFERENCES]
    lines = [format_table(header, rows), '']
    for case in cases:
        lines += [f'### {_title(case)}', '', case_table(case), '']
    return lines


def operators_section(out: Path, name: str) -> list[str]:
    """Peaks, and every operator beside its explicit form and a copy of its inputs and output."""
    cases = load_cases(out / f'{name}.json')
    lines = []
    for case in cases:
        if case['suite'] == 'peaks':
            speeds = ', '.join(f'{kind} {speed / 1e3:.2f}' for kind, speed
                               in case['machine']['gemm_gflops'].items())
            lines = [f'A copy moves {case["copy_gb_s"]:.0f} GB/s (read and written). Products of '
                     f'matrices reach, in TFLOP/s: {speeds}.', '']
    rows = []
    for case in cases:
        if case['suite'] == 'peaks':
            continue
        explicit, fast = case['rows'][0], case['rows'][-1]
        ratio = speedup(fast, explicit)
        cells = [_title(case), format_ms(fast['seconds']),
                 '' if ratio is None else f'{ratio:.1f} x', f'{fast["memory_mb"]:.0f}']
        # Backward passes read and write other things besides.
        if case['passes'] == 'forward':
            copy = case['moved_mb'] * 2**20 / (case['copy_gb_s'] * 1e9)
            cells.append(f'{fast["seconds"] / copy:.1f}')
        else:
            cells.append('')
        rows.append(cells)
    header = ['mmcontainer', 'ms', 'speed, explicit = 1', 'memory, MB', 'time, one copy = 1']
    return [*lines, format_table(header, rows)] if rows else [*lines, 'Nothing was measured.']


def steps_section(out: Path, name: str) -> list[str]:
    """Shares of a training step."""
    lines = []
    for case in load_cases(out / f'{name}.json'):
        total = sum(row['seconds'] for row in case['rows'])
        rows = [[row['form'], f'{1e3 * row["seconds"]:.1f}',
                 f'{100 * row["seconds"] / total:.0f} %'] for row in case['rows']]
        lines += [f'### {case["passes"]}, batch {case["batch"]}, {case["dtype"]}', '',
                  format_table(['', 'ms', 'share'], rows), '']
    return lines or ['Nothing was measured.']


def trainings_section(out: Path, name: str) -> list[str]:
    """Images per second, beside the data loader's, and what the model has learned."""
    file = out / f'{name}.json'
    if not file.exists():
        return ['No training has come to its end.']
    rows = []
    for result in json.loads(file.read_text(encoding='utf-8'))['trainings']:
        wanted = [f'{key} {value:.3f}' for key, value in result['metrics'].items()
                  if re.search(r'bbox_mAP$|accuracy/top1$|single-label', key)]
        rows.append([result['dtype'], str(result['batch']), f'{result["seconds"]:.0f}',
                     f'{result["images_per_second"]:.0f}',
                     f'{result["loader_images_per_second"]:.0f}', ', '.join(wanted)])
    return [format_table(['training in', 'batch', 'seconds', 'images / s',
                          'images / s of the data loader alone', 'result'], rows)]
