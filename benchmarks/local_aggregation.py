"""Time and memory of local aggregation at the shapes of CoTNet-50 in an 800 x 1333 detector.

    python benchmarks/local_aggregation.py --json local_aggregation.json

Forward (without gradients) and forward + backward of the unfold form, of the sum of shifted
products, plain and compiled, of the package's form in PyTorch operators and, on a GPU, of its
Triton kernels. Maps lie in channels_last, as convolutions leave them, or contiguous. The forms take
turns within a round; medians of the rounds are reported. Memory is what one forward + backward
needs above its inputs, results and gradients included: the peak of the process's resident set, or
of CUDA's allocator. "bound" is the time in which a copy moves as many bytes as must be read and
written at least.
"""
import argparse
import importlib
import json
import os
import statistics
import time

import torch
from process import cpu_name, measure_memory, measure_time

operator = importlib.import_module('mmcontainer.ops.local_aggregation')
CAN_USE_TRITON = operator._can_use_triton

# (channels, height, width) of stages 1 to 4; one weight serves 8 channels.
MAPS = ((64, 200, 334), (128, 100, 167), (256, 50, 84), (512, 25, 42))
SHARING, TAPS = 8, 9
LAYOUTS = {'channels_last': torch.channels_last, 'contiguous': torch.contiguous_format}
UNFOLD, TORCH, TRITON = 'unfold', 'mmcontainer, PyTorch', 'mmcontainer, Triton'


def with_triton(allowed):
    """The package's function with, or without, its Triton kernels."""
    def run(x, weight):
        # The choice is made again in the backward pass, which always follows this at once.
        operator._can_use_triton = CAN_USE_TRITON if allowed else lambda *args: False
        return operator.local_aggregation(x, weight)

    return run


def build_forms(device, dtype):
    forms = {UNFOLD: operator.unfold_local_aggregation,
             'shifted products': operator.shifted_products,
             'shifted products, compiled': torch.compile(operator.shifted_products, dynamic=False),
             TORCH: with_triton(False)}
    if device.type == 'cuda' and CAN_USE_TRITON(device, dtype):
        forms[TRITON] = with_triton(True)
    return forms


def make_inputs(batch, channels, height, width, layout, device, dtype):
    """x, weight and an upstream gradient, stored as the layers around the operator would."""
    def maps(number):
        values = torch.randn(batch, number, height, width, device=device).to(dtype)
        return values.contiguous(memory_format=LAYOUTS[layout])

    groups = channels // SHARING
    weight = maps(groups * TAPS).unflatten(1, (groups, TAPS))
    return maps(channels).requires_grad_(), weight.requires_grad_(), maps(channels)


def forward(form, x, weight, grad):
    with torch.no_grad():
        form(x, weight)


def forward_backward(form, x, weight, grad):
    return torch.autograd.grad(form(x, weight), (x, weight), grad)


PASSES = {'forward': forward, 'forward + backward': forward_backward}


def bytes_moved(x, weight):
    """Least traffic: forward reads x, weight; backward those and the gradient; each writes."""
    x, weight = (t.numel() * t.element_size() for t in (x, weight))
    return {'forward': 2 * x + weight, 'forward + backward': 5 * x + 3 * weight}


def measure_bandwidth(x, rounds):
    """Bytes read and written per second by a copy."""
    source, target = x.detach().clone(), torch.empty_like(x)
    seconds = [measure_time(lambda: target.copy_(source), x.device) for _ in range(rounds + 1)]
    return 2 * x.numel() * x.element_size() / statistics.median(seconds[1:])


def run_case(batch, maps, layout, rounds, device, dtype):
    torch.compiler.reset()
    forms = build_forms(device, dtype)
    inputs = make_inputs(batch, *maps, layout, device, dtype)
    bandwidth = measure_bandwidth(inputs[0], rounds)
    bounds = {name: number / bandwidth for name, number in bytes_moved(*inputs[:2]).items()}
    calls = {(form, name): lambda form=function, run=run: run(form, *inputs)
             for form, function in forms.items() for name, run in PASSES.items()}
    for call in calls.values():  # compiles, and warms up
        call()
    memory = {form: measure_memory(calls[form, 'forward + backward'], device) for form in forms}
    times = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            times[key].append(measure_time(call, device))
    medians = {key: statistics.median(values) for key, values in times.items()}
    return [dict(form=form, batch=batch, channels=maps[0], height=maps[1], width=maps[2],
                 layout=layout, memory_mb=memory[form],
                 **{name: dict(seconds=medians[form, name],
                               speedup=medians[UNFOLD, name] / medians[form, name],
                               times_bound=medians[form, name] / bounds[name])
                    for name in PASSES}) for form in forms]


def show(results):
    first = results[0]
    print('{batch} x {channels} x {height} x {width}, {layout}'.format(**first))
    for row in results:
        columns = ''.join(
            '{:10.1f} ms {:5.1f} x unfold {:5.1f} x bound'.format(
                1e3 * row[name]['seconds'], row[name]['speedup'], row[name]['times_bound'])
            for name in PASSES)
        print(f'  {row["form"]:27}{columns}{row["memory_mb"]:9.0f} MB', flush=True)


def describe_machine(device, dtype):
    if device.type == 'cuda':
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = cpu_name()
    return dict(hardware=hardware, threads=torch.get_num_threads(), torch=torch.__version__,
                allocator=os.environ.get('LD_PRELOAD') or 'default', dtype=str(dtype),
                date=time.strftime('%Y-%m-%d'))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', help='write results here')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--batches', type=int, nargs='+', default=[2, 1])
    parser.add_argument('--layouts', nargs='+', default=list(LAYOUTS), choices=LAYOUTS)
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16', 'float16'])
    args = parser.parse_args()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    dtype = getattr(torch, args.dtype)
    results = []
    for layout in args.layouts:
        for batch in args.batches:
            for maps in MAPS:
                case = run_case(batch, maps, layout, args.rounds, device, dtype)
                show(case)
                results += case
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(dict(machine=describe_machine(device, dtype), results=results), file,
                      indent=1)


if __name__ == '__main__':
    main()
