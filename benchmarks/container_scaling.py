"""Time and memory of Container's first stage against image size, beside the explicit matrix.

    python benchmarks/container_scaling.py --json scaling.json --plot scaling.png

One context aggregation (64 channels, 2 heads, depth-wise 3x3) as in stage 1 of arch 'base', forward
and backward, in five forms: with the N x N matrix built, as the package does it, and with pooled
keys and values. The forms take turns within a round; medians of the rounds are reported. Memory is
the peak of the process's resident set during one call above what it held before.
"""
import argparse
import json
import statistics
import time
from functools import partial

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from process import cpu_name, measure_peak

from mmcontainer.layers import ContextAggregation, DepthwiseAffinity
from mmcontainer.ops import aggregate, attention_affinity, mix

IMAGES = ((224, 224), (320, 320), (448, 448), (640, 640), (800, 1333))
STRIDE, CHANNELS, HEADS = 4, 64, 2
KV_STRIDES = {'exact': 1, 'kv_stride=2': 2, 'kv_stride=4': 4, 'kv_stride=8': 8}
EXPLICIT = 'explicit N x N'


class ExplicitAggregation(ContextAggregation):
    """The same function with the attention matrix built."""

    def forward(self, x):
        query, key, value = self.in_proj(x).chunk(3, dim=1)
        dynamic = aggregate(attention_affinity(query, key, self.num_heads), value)
        return self.out_proj(mix(dynamic, self.static(value), self.alpha))


def build_forms():
    def build(cls, kv_stride):
        torch.manual_seed(0)
        return cls(CHANNELS, HEADS, DepthwiseAffinity(CHANNELS, 3), kv_stride)

    forms = {EXPLICIT: build(ExplicitAggregation, 1)}
    forms.update((name, build(ContextAggregation, r)) for name, r in KV_STRIDES.items())
    return forms


def step(form, x):
    form(x).square().mean().backward()


def measure_time(form, x):
    start = time.perf_counter()
    step(form, x)
    return time.perf_counter() - start


def run(rounds, max_gb):
    forms, results = build_forms(), []
    for height, width in IMAGES:
        size = (height // STRIDE, width // STRIDE)
        positions = size[0] * size[1]
        # Logits, their softmax and two gradients are alive at once.
        too_big = 4 * HEADS * positions**2 * 4 / 2**30 > max_gb
        x = torch.randn(1, CHANNELS, *size).to(memory_format=torch.channels_last)
        x.requires_grad_()
        chosen = {name: form for name, form in forms.items() if not (name == EXPLICIT and too_big)}
        memory = {name: measure_peak(partial(step, form, x)) for name, form in chosen.items()}
        times = {name: [] for name in chosen}
        for _ in range(rounds):
            for name, form in chosen.items():
                times[name].append(measure_time(form, x))
        for name in chosen:
            results.append(dict(
                form=name, image=[height, width], positions=positions,
                seconds=statistics.median(times[name]), memory_mb=memory[name]))
            print(f'{height:4} x {width:4}  N {positions:6}  {name:15}'
                  f'{results[-1]["seconds"]:9.3f} s {memory[name]:9.0f} MB', flush=True)
    return results


def describe_machine():
    return dict(cpu=cpu_name(), threads=torch.get_num_threads(), torch=torch.__version__,
                date=time.strftime('%Y-%m-%d'), dtype='float32')


def plot(report, path):
    figure = Figure(figsize=(11, 4.4), dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    panels = zip(figure.subplots(1, 2), (
        ('seconds', 'time (s)'), ('memory_mb', 'peak extra memory (MB)')))
    for axes, (key, label) in panels:
        for name in (EXPLICIT, *KV_STRIDES):
            points = [r for r in report['results'] if r['form'] == name]
            axes.plot([r['positions'] for r in points], [r[key] for r in points], marker='o',
                      linestyle='--' if name == EXPLICIT else '-', label=name)
        axes.set(xscale='log', yscale='log', ylabel=label,
                 xlabel='positions N of the map (image size above)')
        sizes = {r['positions']: '{} x {}'.format(*r['image']) for r in report['results']}
        axes.set_xticks(list(sizes), list(sizes))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, which='both')
        axes.spines[['top', 'right']].set_visible(False)
        top = axes.secondary_xaxis('top')
        top.set_xticks(list(sizes), list(sizes.values()), fontsize=8)
        top.minorticks_off()
    axes.legend(frameon=False)
    machine = report['machine']
    figure.suptitle('Context aggregation of stage 1, forward and backward, one image '
                    f'({machine["cpu"]}, {machine["threads"]} thread(s), float32)', fontsize=10)
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', help='write results here')
    parser.add_argument('--plot', help='draw this PNG')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--max-gb', type=float, default=8,
                        help='leave out the explicit form where it would need more memory')
    args = parser.parse_args()
    report = dict(machine=describe_machine(), results=run(args.rounds, args.max_gb))
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(report, file, indent=1)
    if args.plot:
        plot(report, args.plot)


if __name__ == '__main__':
    main()
