"""The benchmarks at tiny sizes: what they measure, keep and print."""
import json
import sys

import pytest
import torch

from benchmarks import backbones, detectors, models, networks, ops, runtimes, store
from benchmarks.harness import alternate, describe_machine, measure_gemm
from mmcontainer.errors import UserError
from mmcontainer.layers import CotLayer

CPU = torch.device('cpu')


def make_case(times, threads=1, **more):
    rows = [dict(form=form, times=values, seconds=sorted(values)[len(values) // 2], memory_mb=1.)
            for form, values in times.items()]
    machine = dict(hardware='x', threads=threads, allocator='glibc', gemm_gflops={})
    return dict(suite='backbones', passes='inference', batch=1, size=(64, 64), dtype='float32',
                rows=rows, machine=machine, **more)


def test_contestants_take_turns():
    order = []
    measured = alternate({'a': lambda: order.append('a'), 'b': lambda: order.append('b')}, 2, CPU)
    # One call to warm up and one for the memory each; another begins in every round.
    assert ''.join(order) == 'ab' + 'ab' + 'ab' + 'ba'
    assert all(len(row['times']) == 2 for row in measured.values())


def test_memory_is_what_a_call_needs():
    held = []
    rows = alternate({'none': lambda: None, '64 MB': lambda: held.append(torch.ones(2**24).sum())},
                     1, CPU)
    assert 60 < rows['64 MB']['memory_mb'] < 80 and rows['none']['memory_mb'] < 8


def test_ratios_are_taken_within_rounds():
    # The machine is ten times as slow in the second round; medians would say something else.
    case = make_case({'a': [1., 10., 1.], 'b': [2., 20., 2.]})
    slow, fast = store.find_row(case, 'b'), store.find_row(case, 'a')
    assert store.speedup(fast, slow) == 2. and store.speedup(slow, fast) == .5


def test_a_case_measured_again_replaces_the_old_one(tmp_path):
    path = tmp_path / 'results' / 'x.json'
    store.save_cases(path, [make_case({'a': [1.]}), make_case({'a': [2.]}, threads=2)])
    store.save_cases(path, [make_case({'a': [3.], 'b': [4.]})])
    found = {case['machine']['threads']: case for case in store.load_cases(path)}
    assert store.find_row(found[1], 'a')['times'] == [3.]
    assert store.find_row(found[2], 'a')['times'] == [2.]
    assert len(store.load_cases(path)) == 2


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / 'x.json'
    path.write_text('[1, 2]')
    with pytest.raises(UserError, match='no result of a benchmark'):
        store.save_cases(path, [make_case({'a': [1.]})])
    assert path.read_text() == '[1, 2]'


def test_machine_is_described():
    peak = measure_gemm(CPU, torch.float32, size=256)
    machine = describe_machine(CPU, dict(float32=peak))
    assert machine['threads'] == torch.get_num_threads() and peak > 0
    assert machine['versions']['torch'] == torch.__version__


@pytest.mark.parametrize(('suite', 'passes', 'dtype'), [
    (backbones.SUITE, 'inference', 'bfloat16'), (detectors.SUITE, 'training step', 'float32')])
def test_networks(suite, passes, dtype, monkeypatch):
    monkeypatch.setattr(networks, 'measure_gemm', lambda *args: 1.)
    work = networks.Workload(passes, 2, (32, 40), dtype)
    case = networks.run_case(suite, [models.LIGHT, models.RESNET], work, 1, CPU)
    light, resnet = case['rows']
    assert light['flops'] < resnet['flops'] and light['parameters'] < resnet['parameters']
    table = store.case_table(json.loads(json.dumps(case)))
    assert len(table.splitlines()) == 4 and 'skipped' not in table


@pytest.mark.slow
def test_runtimes_compute_in_processes_of_their_own(monkeypatch, capfd):
    for package in ('onnxruntime', 'onnxscript', 'openvino'):
        pytest.importorskip(package)
    monkeypatch.setattr(networks, 'measure_gemm', lambda *args: 1.)
    work = networks.Workload('inference', 1, (64, 64), 'float32')
    rows = networks.run_case(backbones.SUITE, models.DEFAULT_PROCESSES, work, 2, CPU)['rows']
    assert [row['form'] for row in rows] == [
        f'Container-Light, {runtime}' for runtime in ('PyTorch', 'onnxruntime', 'OpenVINO')]
    for row in rows:
        assert len(row['times']) == 2 and 20 < row['resident_mb'] < 2000, row
        assert 'memory_mb' not in row and row['parameters'] > 2e7
    table = store.case_table(dict(suite='backbones', dtype='float32', batch=1, rows=rows,
                                  machine=dict(gemm_gflops={})))
    assert f'({rows[0]["resident_mb"]:.0f})' in table


@pytest.mark.parametrize(('passes', 'dtype', 'reason'), [
    ('training step', 'float32', 'infer on a CPU only'),
    ('inference', 'bfloat16', 'onnxruntime has no bfloat16')])
def test_what_a_runtime_cannot_is_said(passes, dtype, reason, monkeypatch, capsys):
    monkeypatch.setattr(networks, 'measure_gemm', lambda *args: 1.)
    work = networks.Workload(passes, 1, (64, 64), dtype)
    name = f'{models.LIGHT}, onnxruntime'
    row, = networks.run_case(backbones.SUITE, [name], work, 1, CPU)['rows']
    assert reason in row['skipped'] and reason in capsys.readouterr().out


def test_a_process_that_fails_is_no_result(tmp_path):
    with pytest.raises(RuntimeError, match='Container-Light in OpenVINO ended with code 1'):
        runtimes.Peer('OpenVINO', tmp_path, 'backbones', models.LIGHT, 'float32', 1)


def test_batches_that_do_not_fit_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(networks, 'available_memory_mb', lambda device: 1.)
    monkeypatch.setattr(networks, 'measure_gemm', lambda *args: 1.)
    work = networks.Workload('inference', 8, (64, 64), 'float32')
    row, = networks.run_case(backbones.SUITE, [models.LIGHT], work, 1, CPU)['rows']
    assert 'times' not in row and '8 times' in row['skipped']
    assert 'skipped' in capsys.readouterr().out


def test_our_models_are_measured_as_the_tools_run_them():
    assert type(models.build_backbone(models.COTNET, deploy=True).layer1[0].conv2) is not CotLayer
    assert type(models.build_backbone(models.COTNET, deploy=False).layer1[0].conv2) is CotLayer


def test_unfold_form_is_the_same_function():
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        pairs = zip(*(models.build_backbone(name, deploy=True)(image)
                      for name in (models.COTNET, models.UNFOLD_COTNET)))
        for fast, plain in pairs:
            torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('operator', [
    ops.cot(16, 5, 7), ops.attention(64, 2, 5, 6), ops.modulated(4, 5), ops.relative(2, 4, 5),
    ops.mlp(4, 5, 6, 2), ops.depthwise(4, 5, 6), ops.winograd(8, 5, 6)])
def test_forms_of_operators_agree(operator):
    inputs = operator.make_inputs()
    expected, *others = (form(*inputs) for form in operator.forms.values())
    for found in others:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    ops.make_call(operator.forms[ops.FAST], inputs, operator.passes[-1])()


def test_matrices_that_do_not_fit_are_left_out(monkeypatch):
    monkeypatch.setattr(ops, 'measure_gemm', lambda *args: 1.)
    operator = ops.scaling(32, 40)
    explicit, *others = ops.run_case('x', operator._replace(matrix_mb=1e9), 'forward', 1, CPU,
                                     all_forms=True)['rows']
    assert 'times' not in explicit and 'GB needed' in explicit['skipped']
    assert [row['form'] for row in others] == list(operator.forms)[1:]
    assert all('times' in row for row in others)


def test_command_line_stores_a_case(tmp_path, monkeypatch, capsys):
    path = tmp_path / 'ops.json'
    monkeypatch.setattr(ops, 'measure_gemm', lambda *args: 1.)
    monkeypatch.setitem(ops.CASES, 'tiny', ops.cot(16, 5, 7))
    monkeypatch.setattr(sys, 'argv', ['ops', '--cases', 'tiny', '--rounds', '1', '--json',
                                      str(path)])
    ops.main()
    monkeypatch.setitem(ops.SCALING, 'x, 32x40', ops.scaling(32, 40))
    picture = tmp_path / 'x.png'
    monkeypatch.setattr(sys, 'argv', ['ops', '--cases', 'x, 32x40', '--rounds', '1', '--forms',
                                      'all', '--plot', str(picture)])
    ops.main()
    assert picture.stat().st_size > 1000
    assert [case['passes'] for case in store.load_cases(path)] == ['forward', 'forward + backward']
    assert 'mmcontainer' in capsys.readouterr().out
