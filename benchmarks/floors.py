"""The speed and memory that this package promises, compared with the results."""
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from .store import code_of, find_row, format_table, speedup

BIG = [800, 1333]
LIGHT, PLAIN, SWIN, RESNET = 'Container-Light', 'Container-Light, plain', 'Swin-T', 'ResNet-50'


class Floor(NamedTuple):
    """A promise: what Container-Light must reach beside a reference at the same workload.

    With a ``reference_dtype`` of its own the reference comes from another case of the same machine
    and code: bfloat16 is worth what it gains on the best that one had before, not on a plain form
    that bfloat16 may have slowed down.
    """
    suite: str
    passes: str
    size: Optional[list[int]]
    dtype: str
    reference: str
    ratio: float
    reference_dtype: Optional[str] = None
    memory: bool = False


FLOORS = (
    Floor('detectors', 'inference', BIG, 'float32', SWIN, 1.3),
    Floor('detectors', 'inference', BIG, 'float32', RESNET, 1.0),
    Floor('detectors', 'inference', BIG, 'bfloat16', SWIN, 1.3),
    Floor('detectors', 'inference', BIG, 'bfloat16', RESNET, 1.7),
    Floor('backbones', 'inference', BIG, 'float32', PLAIN, 2.3),
    Floor('backbones', 'inference', BIG, 'bfloat16', PLAIN, 4.0, reference_dtype='float32'),
    Floor('backbones', 'inference', BIG, 'bfloat16', PLAIN, 4.0),
    Floor('backbones', 'inference', BIG, 'float32', PLAIN, 1.9, memory=True),
    Floor('backbones', 'inference', [224, 224], 'float32', PLAIN, 1.0),
    Floor('backbones', 'training step', [512, 512], 'float32', PLAIN, 1.25),
    Floor('backbones', 'training step', [512, 512], 'bfloat16', PLAIN, 1.9,
          reference_dtype='float32'),
    Floor('backbones', 'training step', [512, 512], 'bfloat16', PLAIN, 1.9),
)
# Forward and backward of the aggregation, speed and memory against unfold.
OPERATORS = {'CoT aggregation, stage 1, NCHW': 5., 'CoT aggregation, stage 2, NCHW': 8.,
             'CoT aggregation, stage 3, NCHW': 8.}
OPERATOR_MEMORY = 6.


def machine_key(case: dict) -> tuple:
    """The same for cases of one machine, used in one way."""
    machine = case['machine']
    return machine['hardware'], machine['threads'], machine['allocator']


def select(cases: Sequence[dict], **wanted) -> list[dict]:
    """Cases whose values are those wanted."""
    return [case for case in cases if all(case.get(key) == value for key, value in wanted.items())]


def several_machines(cases: Sequence[dict]) -> bool:
    """Tell whether cases come from more than one kind of hardware."""
    return len({case['machine']['hardware'] for case in cases}) > 1


def name_threads(case: dict) -> str:
    """'1 thread', '2 threads'."""
    threads = case['machine']['threads']
    return f'{threads} thread{"s" * (threads != 1)}'


def describe_machine(case: dict) -> str:
    """Hardware, allocator, date and code of a case: all that is alike in most of the results."""
    machine = case['machine']
    return (f'{machine["hardware"]}, {machine["allocator"]}; {machine["date"]}, '
            f'code {code_of(case)}')


def floor_rows(cases: Sequence[dict]) -> list[list[str]]:
    """Every floor on every machine where it was measured."""
    rows = []
    for floor in FLOORS:
        size = 'x'.join(map(str, floor.size))
        what = (f'{floor.suite}, {floor.passes}, {size}, {floor.dtype}: '
                f'{"memory" if floor.memory else "speed"} against {floor.reference}'
                f' in {floor.reference_dtype or floor.dtype}')
        batch = 2 if floor.passes == 'training step' else 1
        measured = []
        for case in select(cases, suite=floor.suite, passes=floor.passes, size=floor.size,
                           dtype=floor.dtype, batch=batch):
            ratio = floor_ratio(case, floor, cases)
            if ratio is not None:
                measured.append(_row(what, case, cases, floor.ratio, ratio,
                                     bound(case, floor, cases)))
        rows += measured or [[what, '', f'{floor.ratio} x', 'not measured', '', '']]
    return rows + list(operator_rows(cases))


def operator_rows(cases: Sequence[dict]) -> Iterator[list[str]]:
    """Floors of CoT's aggregation, forward and backward."""
    for case in select(cases, suite='ops', passes='forward + backward'):
        ratio = OPERATORS.get(case['name'])
        if ratio is not None:
            explicit, fast = case['rows'][0], case['rows'][-1]
            yield _row(f'{case["name"]}: speed against unfold', case, cases, ratio,
                       speedup(fast, explicit))
            yield _row(f'{case["name"]}: memory against unfold', case, cases, OPERATOR_MEMORY,
                       explicit['memory_mb'] / fast['memory_mb'])


def _row(what: str, case: dict, cases: Sequence[dict], wanted: float, ratio: float,
         most: Optional[float] = None) -> list[str]:
    where = f'{case["machine"]["hardware"]}, ' if several_machines(cases) else ''
    return [what, where + name_threads(case), f'{wanted} x', f'{ratio:.2f} x',
            'yes' if ratio >= wanted else '**no**', '' if most is None else f'{most:.1f} x']


def bound(case: dict, floor: Floor, cases: Sequence[dict]) -> Optional[float]:
    """The speed if every multiply-add ran like the fastest matrix product, and nothing else was."""
    ours, other = find_row(case, LIGHT), _reference_case(case, floor, cases)
    peak = case['machine']['gemm_gflops'].get(floor.dtype)
    if floor.memory or not ours.get('flops') or not peak:
        return None
    return find_row(other, floor.reference)['seconds'] / (ours['flops'] / (peak * 1e9))


def floors_table(cases: Sequence[dict]) -> str:
    """A Markdown table of promises and measurements."""
    header = ['what is compared', 'on', 'floor', 'measured', 'reached', 'most']
    return format_table(header, floor_rows(cases))


def same_work(case: dict, cases: Sequence[dict], dtype: str) -> Optional[dict]:
    """The case of the same workload, machine and code in another type."""
    keys = ('suite', 'passes', 'batch', 'size')
    found = [other for other in select(cases, dtype=dtype, **{key: case[key] for key in keys})
             if machine_key(other) == machine_key(case) and code_of(other) == code_of(case)]
    return found[0] if found else None


def _reference_case(case: dict, floor: Floor, cases: Sequence[dict]) -> Optional[dict]:
    return same_work(case, cases, floor.reference_dtype) if floor.reference_dtype else case


def floor_ratio(case: dict, floor: Floor, cases: Sequence[dict]) -> Optional[float]:
    """The ratio that a case reaches; None where one of the two is missing."""
    other = _reference_case(case, floor, cases)
    ours, reference = find_row(case, LIGHT), other and find_row(other, floor.reference)
    if ours is None or reference is None or 'times' not in ours or 'times' not in reference:
        return None
    if floor.memory:
        return reference['memory_mb'] / ours['memory_mb']
    if other is not case:
        return reference['seconds'] / ours['seconds']  # not of the same rounds
    return speedup(ours, reference)
