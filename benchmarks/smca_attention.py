"""Time, memory and accuracy of SMCA's attention, modulated by a Gaussian around each query's point.

    python benchmarks/smca_attention.py --json smca_attention.json

Forward (without gradients) and forward + backward (gradients of query, key, value, point and scale)
in float32, at the sizes of a decoder layer: 300 queries, 8 heads of 32 channels, and the keys of an
800 x 1333 image at stride 32, or of a map four times as fine. The last fifth of the second image's
columns is padding. Forms:

- explicit: distances of every query from every key, logits and affinity, as in the released code;
- mask: fused attention with the explicit log-Gaussian as its mask;
- separable, fold: of mmcontainer.ops.gaussian_attention.

The forms take turns within a round; medians of the rounds are reported. Memory is what one pass
needs above its inputs, results and gradients included: the peak of the process's resident set, or
of CUDA's allocator. Errors are those of the output and of the gradients against the separable form
in float64, in units of the largest entry; the largest of all gradients is given.
"""
import argparse
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F
from process import cpu_name, measure_memory, measure_time

from mmcontainer.ops import gaussian_attention, gaussian_bias

GRIDS = ((25, 42), (120, 140))
BATCH, HEADS, QUERIES, CHANNELS = 2, 8, 300, 32
SMOOTH = 8.


def masked_attention(query, key, value, point, scale, grid_size, smooth, padding, dropout_p):
    """Fused attention with an explicit mask."""
    bias = gaussian_bias(point, scale, grid_size, smooth)
    bias = bias.masked_fill(padding[:, None, None], float('-inf'))
    return F.scaled_dot_product_attention(query, key, value, bias, dropout_p)


def package_form(form):
    return lambda *args: gaussian_attention(*args, form=form)


FORMS = {'explicit': package_form('explicit'), 'mask': masked_attention,
         'separable': package_form('separable'), 'fold': package_form('fold')}


def make_inputs(grid_size, square, device):
    """query, key, value, point, scale (its square around ``square``), padding, upstream."""
    height, width = grid_size
    torch.manual_seed(0)
    tokens = [torch.randn(BATCH, HEADS, number, CHANNELS, device=device)
              for number in (QUERIES, height * width, height * width)]
    point = torch.rand(BATCH, HEADS, QUERIES, 2, device=device) * torch.tensor(
        [width, height], device=device)
    scale = square**0.5 * (1 + 0.1 * torch.randn(point.shape, device=device))
    padding = torch.zeros(BATCH, height, width, dtype=torch.bool, device=device)
    padding[1, :, width - width // 5:] = True
    inputs = [t.requires_grad_() for t in (*tokens, point, scale)]
    return inputs, padding.flatten(1), torch.randn_like(tokens[0])


def forward(form, inputs, fixed, upstream):
    with torch.no_grad():
        form(*inputs, *fixed)


def forward_backward(form, inputs, fixed, upstream):
    out = form(*inputs, *fixed)
    return out, *torch.autograd.grad(out, inputs, upstream)


PASSES = {'forward': forward, 'forward + backward': forward_backward}


def run_case(grid_size, dropout_p, rounds, device):
    inputs, padding, upstream = make_inputs(grid_size, 1., device)
    fixed = (grid_size, SMOOTH, padding, dropout_p)
    calls = {(form, name): lambda form=function, run=run: run(form, inputs, fixed, upstream)
             for form, function in FORMS.items() for name, run in PASSES.items()}
    for call in calls.values():  # warms up
        call()
    memory = {key: measure_memory(call, device) for key, call in calls.items()}
    times = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            times[key].append(measure_time(call, device))
    medians = {key: statistics.median(values) for key, values in times.items()}
    return [dict(form=form, grid_size=grid_size, keys=grid_size[0] * grid_size[1],
                 dropout=dropout_p,
                 **{name: dict(seconds=medians[form, name],
                               speedup=medians['explicit', name] / medians[form, name],
                               memory_mb=memory[form, name]) for name in PASSES})
            for form in FORMS]


def measure_errors(grid_size, square, device):
    """Largest errors of every form in float32."""
    inputs, padding, upstream = make_inputs(grid_size, square, device)
    fixed = (grid_size, SMOOTH, padding, 0.)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    exact = forward_backward(FORMS['separable'], exact, fixed, upstream.double())
    rows = []
    for form, function in FORMS.items():
        found = forward_backward(function, inputs, fixed, upstream)
        out, *gradients = [((a.double() - b).abs().max() / b.abs().max()).item()
                           for a, b in zip(found, exact)]
        rows.append(dict(form=form, grid_size=grid_size, squared_scale=square, output=out,
                         gradients=max(gradients)))
    return rows


def show(results):
    print('{keys} keys, dropout {dropout}'.format(**results[0]))
    for row in results:
        print(f'  {row["form"]:10}' + ''.join(
            '{:10.1f} ms {:5.1f} x explicit {:7.0f} MB'.format(
                1e3 * row[name]['seconds'], row[name]['speedup'], row[name]['memory_mb'])
            for name in PASSES), flush=True)


def show_errors(errors):
    print('{grid_size}, squared scale {squared_scale}'.format(**errors[0]))
    for row in errors:
        print('  {form:10}{output:10.1e}{gradients:10.1e}'.format(**row), flush=True)


def describe_machine(device):
    hardware = torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu_name()
    return dict(hardware=hardware, threads=torch.get_num_threads(), torch=torch.__version__,
                allocator=os.environ.get('LD_PRELOAD') or 'default', dtype='torch.float32',
                date=time.strftime('%Y-%m-%d'))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', help='write results here')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--dropouts', type=float, nargs='+', default=[0., 0.1])
    parser.add_argument('--squared-scales', type=float, nargs='+', default=[1., 16., 28., 100.])
    args = parser.parse_args()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    results, errors = [], []
    for grid_size in GRIDS:
        for dropout_p in args.dropouts:
            results += run_case(grid_size, dropout_p, args.rounds, device)
            show(results[-len(FORMS):])
        for square in args.squared_scales:
            errors += measure_errors(grid_size, square, device)
            show_errors(errors[-len(FORMS):])
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(dict(machine=describe_machine(device), results=results, errors=errors),
                      file, indent=1)


if __name__ == '__main__':
    main()
