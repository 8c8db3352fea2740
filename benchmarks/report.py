"""Write docs/performance.md and its pictures from the results; no number is typed.

    python -m benchmarks.report

Reads every JSON file of the harness in benchmarks/results/. Sentences below state what follows from
the architectures; whatever was measured comes from the files.
"""
import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from mmcontainer.cli.infer import write_atomically
from mmcontainer.cli.tool import run_tool
from mmcontainer.errors import UserError

from .floors import describe_case, floors_section, machine_key, same_work, select
from .plots import draw
from .store import case_table, code_of, find_row, format_table, load_cases, speedup

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE, IMAGES = ROOT / 'benchmarks' / 'results', ROOT / 'docs' / 'performance.md', 'images'
FILES = ('detectors', 'backbones', 'ops', 'training_step')
HEAD = """\
# Performance

Made by `python -m benchmarks.report` from the files in [`benchmarks/results`](../benchmarks/results): do not edit.

All contestants of a table lived in one process and took turns in every round. Times are medians of the rounds, "spread" is the fastest and the slowest round
beside the median, and a speed is the median of the ratios within the rounds. Memory is the peak of what PyTorch's allocator gave out, above what was held before
the call; what oneDNN and MKL take for themselves is not in it. GFLOP/s count two per multiply-add, three forward passes for a training step, and stand beside the fastest matrix product
of 2048 x 2048 measured in the same run. Weights are random: they change neither time nor memory. This package's backbones run as `tools/test.py` and
`tools/train.py` run them: deployed for inference, in the memory layout that they choose themselves. Others run as MMDetection runs them. Ratios travel from
one machine to another better than milliseconds do. A wide spread means that other programs used the machine meanwhile. "Code" is the commit that was measured.

The *plain* form is Container-Light in NCHW as one writes it in PyTorch; the *unfold* form is CoTNet whose aggregation copies every neighbourhood. They stand in
for the official code.
"""  # noqa: E501
LIMITS = """\
## What limits each model

- **Container-Light** computes most of its multiply-adds in 1 x 1 convolutions, which run at the speed of matrix products. What keeps it from that speed is the
  depth-wise 5 x 5 convolutions and the activations, which do little work per byte, and in training the gradients of the depth-wise weights. Attention works in
  stage 4 only, on one position per 32 x 32 pixels.
- **Container-Base** attends in every stage: the first has one position per 4 x 4 pixels, and its cost grows with the square of the number of pixels.
  [docs/container_family.md](container_family.md) measures it.
- **CoTNet** moves memory: its local aggregation does nine multiply-adds per value and weighs them with a map of weights that is larger than its input. It is
  linear in the number of pixels.
- **CoAtNet** convolves in stages 1 and 2 and attends in stages 3 and 4: the attention of stage 3, on one position per 16 x 16 pixels, grows with the square
  of the number of pixels and in the end outweighs the rest.
- **ResNet-50 and ConvNeXt-T** are convolutions throughout, linear in the number of pixels. **Swin-T** attends in windows: linear as well, but it copies maps
  to cut, shift and merge windows. **PVTv2-B2** attends from every position to a map pooled by a fixed factor: the square remains, divided by that factor.
"""  # noqa: E501
REPEAT = """\
## Repeat it

```bash
export OMP_NUM_THREADS=2                     # cases of other thread counts are kept apart
R=benchmarks/results
python -m benchmarks.backbones --sizes 224 800x1333 --dtypes float32 bfloat16 --json $R/backbones.json
python -m benchmarks.backbones --sizes 320 448 640 --json $R/backbones.json
python -m benchmarks.backbones --sizes 224 800x1333 --batches 8 --json $R/backbones.json
python -m benchmarks.backbones --passes 'training step' --batches 2 --sizes 512 \\
    --dtypes float32 bfloat16 --json $R/backbones.json
python -m benchmarks.detectors --sizes 800x1333 --dtypes float32 bfloat16 --json $R/detectors.json
python -m benchmarks.ops --json $R/ops.json
python -m benchmarks.training_step mmcontainer::retinanet/container_light_fpn_1x_coco.py \\
    --data-root DATA --json $R/training_step.json
python -m benchmarks.report
```

A case replaces the same case (workload, hardware, threads, allocator) in its file and leaves the others; `--models` and `--rounds` choose, `--help` says more.
"""  # noqa: E501


def types_section(cases: Sequence[dict]) -> list[str]:
    """What bfloat16 gains, or loses, on float32."""
    rows = []
    for case in select(cases, dtype='bfloat16'):
        other = same_work(case, cases, 'float32')
        for row in case['rows']:
            full = other and find_row(other, row['form'])
            if not full or 'times' not in row or 'times' not in full:
                continue
            work = '{} x {} x {}'.format(case['batch'], *case['size'])
            gain = full['seconds'] / row['seconds']
            rows.append([f'{row["form"]}, {case["suite"]}, {case["passes"]}, {work}',
                         str(case['machine']['threads']), f'{1e3 * full["seconds"]:.0f}',
                         f'{1e3 * row["seconds"]:.0f}', f'{gain:.2f} x'])
    if not rows:
        return ['Not measured yet.', '']
    return [format_table(['', 'threads', 'float32, ms', 'bfloat16, ms', 'gain'], rows), '',
            'Autocast, with weights in float32: they are converted in every call. The two types '
            'were measured one after the other, not in the same rounds. A gain below 1 is a loss: '
            'leave `--amp bf16` out there.', '']


def suite_section(cases: Sequence[dict]) -> list[str]:
    """A table per case."""
    lines = []
    for case in cases:
        size = '{} x {}'.format(*case['size'])
        lines += [f'### {case["passes"].capitalize()}, {case["batch"]} x {size}, {case["dtype"]}',
                  '', describe_case(case), '',
                  case_table(case), '']
    return lines


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
        lines += [describe_case(last), '',
                  format_table(['', *sizes, 'exponent'], rows), '']
    if not lines:
        return ['Not measured yet.', '']
    return [*lines, 'The exponent is that of the number of pixels between the first and the last '
            'size: 1 is linear, 2 quadratic. Below 1, fixed costs of the small size remain.', '']


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
    return [describe_case(cases[0]), '', format_table(header, rows), ''] if cases else [
        'Not measured yet.', '']


def step_section(cases: Sequence[dict]) -> list[str]:
    """Parts of a training step and of the start."""
    lines = []
    for case in cases:
        total = sum(row['seconds'] for row in case['rows'])
        rows = [[row['form'], f'{1e3 * row["seconds"]:.1f}',
                 f'{100 * row["seconds"] / total:.1f} %'] for row in case['rows']]
        rows.append(['together', f'{1e3 * total:.1f}', '100 %'])
        lines += [f'### {case["name"]}, {case["passes"]}, batch {case["batch"]}, {case["dtype"]}',
                  '', describe_case(case), '',
                  format_table(['', 'ms', 'share'], rows), '']
    return lines or ['Not measured yet.', '']


def render(cases: Sequence[dict]) -> str:
    """The whole page.

    Args:
        cases (Sequence[dict]): As :func:`benchmarks.store.load_cases` reads them.
    """
    suites = {name: select(cases, suite=name) for name in FILES}
    versions = sorted({', '.join(f'{key} {value}' for key, value in
                                 case['machine']['versions'].items()) for case in cases})
    lines = [HEAD, 'Measured with: ' + '; '.join(versions) + '.', '', '## Floors', '',
             *floors_section(cases), LIMITS, '## How the cost grows with the image',
             '', *growth_section(cases)]
    for name in ('time', 'memory', 'parameters'):
        lines += [f'![{name}](images/performance_{name}.png)', '']
    lines += ['## bfloat16 beside float32', '', *types_section(cases)]
    lines += ['## In a detector: RetinaNet', '', *suite_section(suites['detectors']),
              '## Backbones alone', '', *suite_section(suites['backbones']), '## Operators', '',
              *ops_section(suites['ops']), '## A whole training step', '',
              *step_section(suites['training_step']), REPEAT]
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
    write_atomically(PAGE, lambda file: Path(file).write_text(text, encoding='utf-8'))
    for path in draw(select(cases, suite='backbones'), PAGE.parent / IMAGES):
        print(path)
    print(PAGE)


if __name__ == '__main__':
    run_tool(main)
