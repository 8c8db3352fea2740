"""Time and memory of attention with a relative bias, as in CoAtNet's stage 3 at 800 x 1333.

    python benchmarks/relative_attention.py --json relative_attention.json

One image, 12 heads of 32 channels, 50 x 84 positions: explicit affinities, fused attention with the
matrix of biases (gathered in every call, or kept from an earlier one, without gradients to the
table), and the package's Toeplitz form. The forms take turns within a round; medians of the rounds
are reported. Memory is the peak of the process's resident set above what it held before.
"""
import argparse
import json
import statistics
import time
from functools import partial

import torch
import torch.nn.functional as F
from process import cpu_name, measure_peak

from mmcontainer.ops import relative_affinity, relative_attention, relative_bias

HEADS, HEAD_DIMS, GRID = 12, 32, (50, 84)
EXPLICIT, KEPT = 'explicit', 'fused, kept biases'


def build_forms(table):
    with torch.no_grad():
        kept = relative_bias(table, GRID)[None]

    def explicit(query, key, value, table):
        return relative_affinity(query, key, table, GRID) @ value

    def fused_kept(query, key, value, table):
        return F.scaled_dot_product_attention(query, key, value, kept)

    return {EXPLICIT: explicit,
            'fused, gathered biases': partial(
                relative_attention, grid_size=GRID, form='dense'),
            KEPT: fused_kept,
            'Toeplitz': partial(relative_attention, grid_size=GRID, form='toeplitz')}


def forward(form, inputs, grad):
    with torch.no_grad():
        form(*inputs)


def forward_backward(form, inputs, grad):
    torch.autograd.grad(form(*inputs), inputs, grad)


PASSES = {'forward': forward, 'forward + backward': forward_backward}


def run(rounds):
    torch.manual_seed(0)
    tokens = [torch.randn(1, HEADS, GRID[0] * GRID[1], HEAD_DIMS) for _ in range(4)]
    inputs = [*tokens[:3], torch.randn(HEADS, 2 * GRID[0] - 1, 2 * GRID[1] - 1)]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    # Kept biases give their table no gradients: that form is for inference.
    calls = {(name, kind): partial(function, form, inputs, tokens[3])
             for name, form in build_forms(inputs[3]).items()
             for kind, function in PASSES.items() if (name, kind) != (KEPT, 'forward + backward')}
    memory = {key: measure_peak(call) for key, call in calls.items()}
    seconds = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[key].append(time.perf_counter() - start)
    results = []
    for (name, kind), values in seconds.items():
        middle = statistics.median(values)
        speedup = statistics.median(seconds[EXPLICIT, kind]) / middle
        results.append({'form': name, 'pass': kind, 'seconds': middle, 'speedup': speedup,
                        'memory_mb': memory[name, kind]})
        print(f'{name:24}{kind:20}{middle:8.3f} s {speedup:5.1f} x explicit '
              f'{memory[name, kind]:7.0f} MB', flush=True)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', help='write results here')
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    machine = dict(cpu=cpu_name(), threads=torch.get_num_threads(), torch=torch.__version__,
                   date=time.strftime('%Y-%m-%d'), dtype='float32')
    results = run(args.rounds)
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(dict(machine=machine, results=results), file, indent=1)


if __name__ == '__main__':
    main()
