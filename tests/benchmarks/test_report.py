"""docs/performance.md is what its generator makes of the committed results."""
from pathlib import Path

import pytest

from benchmarks import floors, report
from benchmarks.plots import draw
from mmcontainer.errors import UserError


def make_case(size, seconds, **more):
    rows = [dict(form=form, times=[value], seconds=value, memory_mb=memory, parameters=2e7,
                 flops=1e9) for form, (value, memory) in seconds.items()]
    machine = dict(hardware='x', threads=1, allocator='glibc', gemm_gflops=dict(float32=100.),
                   versions=dict(torch='2'), date='2000-01-01')
    return {**dict(suite='backbones', passes='inference', batch=1, size=size, dtype='float32',
                   rows=rows, machine=machine), **more}


def test_page_is_generated():
    assert report.PAGE.read_text(encoding='utf-8') == report.render(report.load_results()), (
        'run: python -m benchmarks.report')
    for line in report.PAGE.read_text(encoding='utf-8').splitlines():
        if line.startswith('!['):
            assert (report.PAGE.parent / line.split('(')[1].rstrip(')')).is_file()


def test_floors_are_computed_where_both_were_measured():
    fast = make_case(floors.BIG, {floors.LIGHT: (1., 10.), floors.PLAIN: (2.5, 18.)})
    rows = {row[0]: row[2:] for row in floors.floor_rows([fast])}
    plain = 'against Container-Light, plain in float32'
    speed = rows[f'backbones, inference, 800x1333, float32: speed {plain}']
    memory = rows[f'backbones, inference, 800x1333, float32: memory {plain}']
    # 1 GFLOP at 100 GFLOP/s would take 10 ms.
    assert speed == ['2.3 x', '2.50 x', 'yes', '250.0 x']
    assert memory == ['1.9 x', '1.80 x', '**no**', '']
    assert sum(row[1] == 'not measured' for row in rows.values()) == len(floors.FLOORS) - 2


def test_floors_of_operators():
    case = make_case(None, {'explicit': (8., 10.), 'mmcontainer': (2., 2.)}, suite='ops',
                     name='CoT aggregation, stage 2, NCHW', passes='forward + backward')
    speed, memory = floors.operator_rows([case])
    assert speed[2:] == ['8.0 x', '4.00 x', '**no**', '']
    assert memory[2:] == ['6.0 x', '5.00 x', '**no**', '']


def test_bfloat16_is_held_against_the_better_reference():
    full = make_case(floors.BIG, {floors.LIGHT: (2., 1.), floors.PLAIN: (4., 1.)})
    low = make_case(floors.BIG, {floors.LIGHT: (1., 1.), floors.PLAIN: (9., 1.)}, dtype='bfloat16')
    rows = {row[0]: row[2:] for row in floors.floor_rows([full, low])}
    start = 'backbones, inference, 800x1333, bfloat16: speed against Container-Light, plain in'
    assert rows[f'{start} float32'][1] == '4.00 x' and rows[f'{start} bfloat16'][1] == '9.00 x'
    page = '\n'.join(report.suite_section('backbones', [full, low]))
    assert page.count('### ') == 1 and '| 9000 |' in page and page.count('| 0.44 x |') == 1
    low['machine'] = dict(low['machine'], code='other')
    page = '\n'.join(report.suite_section('backbones', [full, low]))
    assert page.count('### ') == 2 and '0.44 x' not in page and 'code other' in page


def test_growth_is_the_exponent_of_the_pixels(tmp_path):
    cases = [make_case([100, 100], {'linear': (1., 1.), 'square': (1., 1.)}),
             make_case([200, 200], {'linear': (4., 4.), 'square': (16., 16.)})]
    text = '\n'.join(report.growth_section(cases))
    assert '| linear | 1000 | 4000 | 1.00 |' in text and '| square | 1000 | 16000 | 2.00 |' in text
    paths = draw(cases, tmp_path)
    assert [path.name for path in paths] == [
        f'performance_{name}.png' for name in ('time', 'memory', 'parameters')]
    assert all(Path(path).stat().st_size > 1000 for path in paths)


def test_sizes_of_different_code_are_not_set_side_by_side():
    cases = [make_case([side, side], {'a': (1., 1.)}) for side in (100, 200)]
    cases[1]['machine'] = dict(cases[1]['machine'], code='other')
    assert report.growth_section(cases) == report.NOT_MEASURED


def test_no_results(tmp_path):
    with pytest.raises(UserError, match=r'benchmarks\.backbones --json'):
        report.load_results(tmp_path)
