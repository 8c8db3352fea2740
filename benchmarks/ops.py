"""Operators in their fast and explicit forms, taking turns: time and memory.

    python -m benchmarks.ops --cases 'CoT aggregation, stage 1' --json ops.json

The scripts local_aggregation.py, modulated attention's smca_attention.py, relative_attention.py and
container_scaling.py beside this file look at one operator each, in more forms; this one measures
all of them alike, at the sizes of an 800 x 1333 image. Passes: forward without gradients, or
forward and backward to all inputs.
"""
import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmcontainer.cli.tool import run_tool
from mmcontainer.ops import (
    aggregate,
    attention_affinity,
    gaussian_attention,
    local_aggregation,
    relative_affinity,
    relative_attention,
    self_attention,
    unfold_local_aggregation,
)

from .harness import alternate, default_device, describe_machine, measure_gemm
from .store import case_table, save_cases

PASSES = ('forward', 'forward + backward')
EXPLICIT, FAST = 'explicit', 'mmcontainer'


class Operator(NamedTuple):
    """A case.

    Attributes:
        make_inputs (Callable): () -> list of tensors.
        forms (dict[str, Callable]): The explicit form first.
        batch (int): Images.
    """
    make_inputs: Callable
    forms: dict[str, Callable]
    batch: int


def cot(channels: int, height: int, width: int,
        memory_format: torch.memory_format = torch.channels_last, batch: int = 2) -> Operator:
    """CoT's local aggregation: 3 x 3 weights, each serving 8 channels.

    Backbones train in channels_last and, deployed, aggregate in NCHW, where unfold is faster, too.
    """
    def make_inputs() -> list[Tensor]:
        def maps(number: int) -> Tensor:
            return torch.randn(batch, number, height, width).to(memory_format=memory_format)

        return [maps(channels), maps(channels // 8 * 9).unflatten(1, (channels // 8, 9))]

    return Operator(make_inputs, {EXPLICIT: unfold_local_aggregation, FAST: local_aggregation},
                    batch)


def attention(channels: int, heads: int, height: int, width: int) -> Operator:
    """Container's dynamic affinity: softmax(q k^T) v of one image."""
    def make_inputs() -> list[Tensor]:
        return [torch.randn(1, channels, height, width) for _ in range(3)]

    def explicit(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return aggregate(attention_affinity(query, key, heads), value)

    def fast(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self_attention(query, key, value, heads)

    return Operator(make_inputs, {EXPLICIT: explicit, FAST: fast}, 1)


def modulated(height: int, width: int, batch: int = 2) -> Operator:
    """SMCA's attention of 300 queries, 8 heads of 32 channels."""
    def make_inputs() -> list[Tensor]:
        tokens = [torch.randn(batch, 8, number, 32) for number in (300, height * width,
                                                                   height * width)]
        point = torch.rand(batch, 8, 300, 2) * torch.tensor([width, height])
        return [*tokens, point, 1 + 0.1 * torch.randn(batch, 8, 300, 2)]

    def form(name: str) -> Callable:
        options = {} if name == FAST else dict(form='explicit')
        return lambda *inputs: gaussian_attention(*inputs, (height, width), 8., **options)

    return Operator(make_inputs, {EXPLICIT: form(EXPLICIT), FAST: form(FAST)}, batch)


def relative(heads: int, height: int, width: int) -> Operator:
    """CoAtNet's attention of one image, heads of 32 channels."""
    def make_inputs() -> list[Tensor]:
        tokens = [torch.randn(1, heads, height * width, 32) for _ in range(3)]
        return [*tokens, torch.randn(heads, 2 * height - 1, 2 * width - 1)]

    def explicit(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> Tensor:
        return relative_affinity(query, key, table, (height, width)) @ value

    def fast(*inputs: Tensor) -> Tensor:
        return relative_attention(*inputs, grid_size=(height, width))

    return Operator(make_inputs, {EXPLICIT: explicit, FAST: fast}, 1)


CASES: dict[str, Operator] = {
    'CoT aggregation, stage 1': cot(64, 200, 334),
    'CoT aggregation, stage 2': cot(128, 100, 167),
    'CoT aggregation, stage 3': cot(256, 50, 84),
    'CoT aggregation, stage 1, NCHW': cot(64, 200, 334, torch.contiguous_format),
    'CoT aggregation, stage 2, NCHW': cot(128, 100, 167, torch.contiguous_format),
    'CoT aggregation, stage 3, NCHW': cot(256, 50, 84, torch.contiguous_format),
    'Container attention, stage 4': attention(512, 16, 25, 42),
    'Container attention, stage 3': attention(320, 10, 50, 84),
    'SMCA attention, stride 32': modulated(25, 42),
    'SMCA attention, stride 8': modulated(100, 168),
    'CoAtNet attention, stride 16': relative(12, 50, 84),
}


def make_call(form: Callable, inputs: list[Tensor], passes: str) -> Callable:
    """One pass of a form."""
    if passes == 'forward':
        def call():
            with torch.no_grad():
                form(*inputs)
    else:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        with torch.no_grad():
            gradient = torch.randn_like(form(*inputs))  # in the format of the output

        def call():
            torch.autograd.grad(form(*leaves), leaves, gradient)
    return call


def run_case(name: str, passes: str, rounds: int, device: torch.device) -> dict:
    """Measure one operator, in the form that :mod:`benchmarks.store` keeps."""
    operator = CASES[name]
    torch.manual_seed(0)
    inputs = [tensor.to(device) for tensor in operator.make_inputs()]
    calls = {form: make_call(function, inputs, passes)
             for form, function in operator.forms.items()}
    rows = [dict(form=form, **measured)
            for form, measured in alternate(calls, rounds, device).items()]
    peak = measure_gemm(device, torch.float32)
    return dict(suite='ops', name=name, passes=passes, batch=operator.batch, dtype='float32',
                rows=rows, machine=describe_machine(device, dict(float32=peak)))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.ops',
                                     description=__doc__.splitlines()[0])
    parser.add_argument('--cases', nargs='+', default=list(CASES), choices=CASES, metavar='NAME',
                        help=f'of: {"; ".join(CASES)}')
    parser.add_argument('--passes', nargs='+', default=list(PASSES), choices=PASSES)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', type=torch.device, default=default_device())
    parser.add_argument('--json', metavar='FILE', help='merge the results into this file')
    return parser.parse_args()


def main() -> None:
    """Run the cases chosen; each is stored as soon as it is done."""
    args = parse_args()
    for name in args.cases:
        for passes in args.passes:
            case = run_case(name, passes, args.rounds, args.device)
            print(f'\n{name}, {passes}, batch {case["batch"]}\n\n{case_table(case)}', flush=True)
            if args.json:
                save_cases(args.json, [case])


if __name__ == '__main__':
    run_tool(main)
