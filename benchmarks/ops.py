"""Operators in their fast and explicit forms, taking turns: time and memory.

    python -m benchmarks.ops --cases 'CoT aggregation, stage 1' --json ops.json
    python -m benchmarks.ops --cases 'SMCA attention, stride 8' --forms all
    python -m benchmarks.ops --cases 'Container attention, stage 1, '{224x224,448x448} --forms all \
        --plot scaling.png

The sizes are those of an 800 x 1333 image, unless the name says another one. Every operator has its
explicit form, the package's, and for some others in between, which `--forms all` measures too.
Passes: forward without gradients, or forward and backward to all inputs.
"""
import argparse
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcontainer.cli.tool import run_tool
from mmcontainer.ops import (
    aggregate,
    attention_affinity,
    depthwise_conv2d,
    gaussian_attention,
    gaussian_bias,
    local_aggregation,
    multi_scale_gaussian_attention,
    pointwise_mlp,
    relative_affinity,
    relative_attention,
    relative_bias,
    self_attention,
    unfold_local_aggregation,
)
from mmcontainer.ops.winograd import winograd_conv2d, winograd_kernels

from .harness import (
    GEMM_SIZE,
    MEMORY_SHARE,
    PRECISIONS,
    alternate,
    available_memory_mb,
    default_device,
    describe_machine,
    measure_copy,
    measure_gemm,
    precision,
)
from .plots import draw_scaling
from .store import case_table, save_cases

FORWARD, BACKWARD = PASSES = ('forward', 'forward + backward')
EXPLICIT, FAST = 'explicit', 'mmcontainer'


class Operator(NamedTuple):
    """A case.

    Attributes:
        make_inputs (Callable): () -> list of tensors.
        forms (dict[str, Callable]): The explicit form first, the package's last.
        batch (int): Images.
        size (tuple[int, int], optional): Height and width of the image, if it is another one.
        matrix_mb (float): Memory of the explicit form's matrices, where it may be more than there
            is.
        passes (tuple[str, ...]): Passes that it knows.
    """
    make_inputs: Callable
    forms: dict[str, Callable]
    batch: int = 1
    size: Optional[tuple[int, int]] = None
    matrix_mb: float = 0.
    passes: tuple[str, ...] = PASSES


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

    return Operator(make_inputs, {EXPLICIT: explicit, FAST: partial(self_attention,
                                                                    num_heads=heads)})


def scaling(height: int, width: int, channels: int = 64, heads: int = 2) -> Operator:
    """The attention of stage 1 of Container's arch 'base' in an image of any size.

    With a kv_stride, keys and values are averaged over windows of that size.
    """
    operator = attention(channels, heads, height // 4, width // 4)
    explicit, fast = operator.forms.values()
    pooled = {f'kv_stride={stride}': partial(fast, kv_stride=stride) for stride in (2, 4, 8)}
    # Logits, their softmax and two gradients are alive at once, in float32.
    matrices = 4 * heads * (height // 4 * (width // 4))**2 * 4 / 2**20
    return operator._replace(forms={EXPLICIT: explicit, **pooled, FAST: fast},
                             size=(height, width), matrix_mb=matrices)


def modulated(height: int, width: int, batch: int = 2, dropout: float = 0.) -> Operator:
    """SMCA's attention of 300 queries, 8 heads of 32 channels."""
    def make_inputs() -> list[Tensor]:
        tokens = [torch.randn(batch, 8, number, 32) for number in (300, height * width,
                                                                   height * width)]
        point = torch.rand(batch, 8, 300, 2) * torch.tensor([width, height])
        return [*tokens, point, 1 + 0.1 * torch.randn(batch, 8, 300, 2)]

    def masked(query: Tensor, key: Tensor, value: Tensor, *gaussian: Tensor) -> Tensor:
        bias = gaussian_bias(*gaussian, (height, width), 8.)
        return F.scaled_dot_product_attention(query, key, value, bias, dropout)

    def form(name: str) -> Callable:
        return lambda *inputs: gaussian_attention(
            *inputs, (height, width), 8., dropout_p=dropout, form=name)

    return Operator(make_inputs, {
        EXPLICIT: form('explicit'), 'fused, bias as a mask': masked,
        'separable': form('separable'), 'folded': form('fold'), FAST: form('auto')}, batch)


def multi_scale(height: int, width: int) -> Operator:
    """The same over the four groups of the multi-scale SMCA-DETR, for images of this size."""
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (16, 16, 32, 64)]
    keys = sum(rows * columns for rows, columns in sizes)

    def make_inputs() -> list[Tensor]:
        tokens = [torch.randn(1, 8, number, 32) for number in (300, keys, keys)]
        point = torch.stack([torch.rand(1, 8, 300, 2) * torch.tensor(size[::-1]) for size in sizes])
        scale = 1 + 0.1 * torch.randn(len(sizes), 1, 8, 300, 2)
        return [*tokens, point, scale, torch.randn(1, 300, len(sizes)).softmax(-1)]

    def form(name: str) -> Callable:
        return lambda *inputs: multi_scale_gaussian_attention(
            *inputs, sizes, (16., 16., 8., 4.), form=name)

    return Operator(make_inputs, {EXPLICIT: form('explicit'), 'separable': form('separable'),
                                  FAST: form('auto')})


def relative(heads: int, height: int, width: int) -> Operator:
    """CoAtNet's attention of one image, heads of 32 channels."""
    grid_size = (height, width)

    def make_inputs() -> list[Tensor]:
        tokens = [torch.randn(1, heads, height * width, 32) for _ in range(3)]
        return [*tokens, torch.randn(heads, 2 * height - 1, 2 * width - 1)]

    def explicit(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> Tensor:
        return relative_affinity(query, key, table, grid_size) @ value

    def gathered(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> Tensor:
        bias = relative_bias(table, grid_size)[None]
        return F.scaled_dot_product_attention(query, key, value, bias)

    return Operator(make_inputs, {EXPLICIT: explicit, 'fused, gathered biases': gathered,
                                  FAST: partial(relative_attention, grid_size=grid_size)})


def mlp(channels: int, height: int, width: int, ratio: int) -> Operator:
    """MLP of a block of Container-Light, in training in chunks."""
    def make_inputs() -> list[Tensor]:
        x = torch.randn(2, channels, height, width).to(memory_format=torch.channels_last)
        hidden = ratio * channels
        return [x, torch.randn(hidden, channels, 1, 1) / channels**0.5, torch.randn(hidden),
                torch.randn(channels, hidden, 1, 1) / hidden**0.5, torch.randn(channels)]

    def explicit(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor,
                 bias2: Tensor) -> Tensor:
        return F.conv2d(F.gelu(F.conv2d(x, weight1, bias1)), weight2, bias2)

    return Operator(make_inputs, {EXPLICIT: explicit, FAST: pointwise_mlp}, 2, passes=(BACKWARD, ))


def depthwise(channels: int, height: int, width: int, kernel_size: int = 5) -> Operator:
    """Static affinity of Container-Light; the forms differ in half precision only."""
    def make_inputs() -> list[Tensor]:
        x = torch.randn(2, channels, height, width).to(memory_format=torch.channels_last)
        return [x, torch.randn(channels, 1, kernel_size, kernel_size), torch.randn(channels)]

    def explicit(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding='same', groups=channels)

    return Operator(make_inputs, {EXPLICIT: explicit, FAST: depthwise_conv2d}, 2,
                    passes=(BACKWARD, ))


def winograd(channels: int, height: int, width: int) -> Operator:
    """3 x 3 convolution of a neck or a head, which keeps its transformed kernels."""
    kernels_of = lru_cache(maxsize=1)(winograd_kernels)

    def make_inputs() -> list[Tensor]:
        return [torch.randn(1, channels, height, width).to(memory_format=torch.channels_last),
                torch.randn(channels, channels, 3, 3) / channels]

    def fast(x: Tensor, weight: Tensor) -> Tensor:
        return winograd_conv2d(x, kernels_of(weight))

    return Operator(make_inputs, {EXPLICIT: partial(F.conv2d, padding=1), FAST: fast},
                    passes=(FORWARD, ))


_STAGES = ((64, 200, 334), (128, 100, 167), (256, 50, 84), (512, 25, 42))
CASES: dict[str, Operator] = {
    **{f'CoT aggregation, stage {i}': cot(*maps) for i, maps in enumerate(_STAGES, 1)},
    **{f'CoT aggregation, stage {i}, NCHW': cot(*maps, torch.contiguous_format)
       for i, maps in enumerate(_STAGES, 1)},
    'Container attention, stage 4': attention(512, 16, 25, 42),
    'Container attention, stage 3': attention(320, 10, 50, 84),
    'SMCA attention, stride 32': modulated(25, 42),
    'SMCA attention, stride 8': modulated(100, 168),
    'SMCA attention, stride 8, dropout': modulated(100, 168, dropout=0.1),
    'SMCA attention, four groups': multi_scale(800, 1333),
    'CoAtNet attention, stride 16': relative(12, 50, 84),
    **{f'Container MLP, stage {i}': mlp(*maps) for i, maps in enumerate(
        ((64, 200, 333, 8), (128, 100, 166, 8), (320, 50, 83, 4), (512, 25, 41, 4)), 1)},
    **{f'Depth-wise 5 x 5, stage {i}': depthwise(*maps) for i, maps in enumerate(
        ((64, 200, 333), (128, 100, 166), (320, 50, 83), (512, 25, 41)), 1)},
    **{f'3 x 3 convolution, level {i}': winograd(256, *size) for i, size in (
        (3, (100, 168)), (4, (50, 84)), (5, (25, 42)))},
}
# Measured on demand: the largest takes minutes.
SCALING = {f'Container attention, stage 1, {height}x{width}': scaling(height, width)
           for height, width in ((224, 224), (320, 320), (448, 448), (640, 640), (800, 1333))}


def make_call(form: Callable, inputs: list[Tensor], passes: str) -> Callable:
    """One pass of a form."""
    if passes == FORWARD:
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


def run_case(name: str, operator: Operator, passes: str, rounds: int, device: torch.device,
             all_forms: bool = False, dtype: str = 'float32',
             gemm_size: int = GEMM_SIZE) -> dict:
    """Measure one operator, in the form that :mod:`benchmarks.store` keeps."""
    torch.manual_seed(0)
    rows = {form: dict(form=form) for form in operator.forms
            if all_forms or form in (EXPLICIT, FAST)}
    free = MEMORY_SHARE * available_memory_mb(device)
    if operator.matrix_mb > free:
        rows[EXPLICIT]['skipped'] = f'{operator.matrix_mb / 1024:.0f} GB needed'
    with precision(dtype) as kind:
        inputs = [tensor.to(device, kind) for tensor in operator.make_inputs()]
        calls = {form: make_call(operator.forms[form], inputs, passes)
                 for form, row in rows.items() if 'skipped' not in row}
        for form, measured in alternate(calls, rounds, device).items():
            rows[form].update(measured)
        machine = describe_machine(device, {dtype: measure_gemm(device, kind, gemm_size)})
    # What must be read and written once: no form of the operator can be faster than a copy of it.
    with torch.no_grad():
        out = operator.forms[FAST](*inputs)
    moved = sum(tensor.nbytes for tensor in (*inputs, out))
    return dict(suite='ops', name=name, passes=passes, batch=operator.batch, size=operator.size,
                dtype=dtype, rows=list(rows.values()), moved_mb=moved / 2**20,
                copy_gb_s=measure_copy(device), machine=machine)


def parse_args() -> argparse.Namespace:
    """The command line."""
    names = [*CASES, *SCALING]
    parser = argparse.ArgumentParser(prog='python -m benchmarks.ops',
                                     description=__doc__.splitlines()[0])
    parser.add_argument('--cases', nargs='+', default=list(CASES), choices=names, metavar='NAME',
                        help=f'of: {"; ".join(names)} (all but the last {len(SCALING)})')
    parser.add_argument('--passes', nargs='+', default=list(PASSES), choices=PASSES)
    parser.add_argument('--forms', choices=('two', 'all'), default='two',
                        help='the explicit and the package\'s, or all')
    parser.add_argument('--dtype', default='float32', choices=PRECISIONS,
                        help='keep results of other types than float32 in a file of their own: '
                        'docs/performance.md states float32')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', type=torch.device, default=default_device())
    parser.add_argument('--json', metavar='FILE', help='merge the results into this file')
    parser.add_argument('--plot', metavar='PNG', type=Path,
                        help='draw the cases that state a size, and the last pass, against it')
    return parser.parse_args()


def main() -> None:
    """Run the cases chosen; each is stored as soon as it is done."""
    args, measured = parse_args(), []
    for name in args.cases:
        operator = {**CASES, **SCALING}[name]
        for passes in filter(operator.passes.__contains__, args.passes):
            case = run_case(name, operator, passes, args.rounds, args.device, args.forms == 'all',
                            args.dtype)
            print(f'\n{name}, {passes}, batch {case["batch"]}\n\n{case_table(case)}', flush=True)
            if args.json:
                save_cases(args.json, [case])
            measured.append(case)
    sized = [case for case in measured if case['size'] and case['passes'] == args.passes[-1]]
    if args.plot and sized:
        draw_scaling(sized, args.plot)


if __name__ == '__main__':
    run_tool(main)
