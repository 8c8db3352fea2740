"""Shared by ``benchmarks.backbones`` and ``benchmarks.detectors``: cases, memory, command line."""
import argparse
import gc
import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import nn

from mmcontainer.analysis import count_flops
from mmcontainer.cli.tool import run_tool
from mmcontainer.engine.amp import keep_float32
from mmcontainer.torch_compat import loss_scaler

from .harness import (
    GEMM_SIZE,
    MEMORY_SHARE,
    PRECISIONS,
    alternate,
    available_memory_mb,
    default_device,
    describe_machine,
    measure_gemm,
    measure_memory,
    precision,
)
from .models import CONTESTANTS, DEFAULT_PROCESSES, IN_PROCESSES
from .runtimes import INPUT_FILE, MODEL_FILE, TYPES, Peer
from .store import case_table, save_cases

PASSES = ('inference', 'training step')
# From here on the memory of a batch is predicted from that of one image.
BIG_BATCH = 4


class Workload(NamedTuple):
    """One combination of pass, batch, size and type that all contestants run.

    Attributes:
        passes (str): 'inference' or 'training step'.
        batch (int): Images.
        size (tuple[int, int]): Their height and width.
        dtype (str): Of ``PRECISIONS``; half precision under autocast with weights in float32.
        compiler (str, optional): Backend of ``torch.compile``, which compiles the backbone as
            ``--compile`` of the tools does, but for one size of image.
    """
    passes: str
    batch: int
    size: tuple[int, int]
    dtype: str
    compiler: Optional[str] = None


class Suite(NamedTuple):
    """A kind of network.

    Attributes:
        name (str): Of the suite.
        build (Callable): (contestant, deploy) -> network.
        make_inputs (Callable): (workload, device) -> arguments of the two calls below.
        infer (Callable): (network, *inputs), called without gradients.
        loss (Callable): (network, *inputs) -> scalar loss.
        padded (Callable): Size of an image -> the size that the network sees.
        export (Callable): (contestant, workload, path) -> images; writes an ONNX file.
        deployed (Callable): contestant -> the module that the file computes.
    """
    name: str
    build: Callable
    make_inputs: Callable
    infer: Callable
    loss: Callable
    padded: Callable = tuple
    export: Optional[Callable] = None
    deployed: Optional[Callable] = None


def autocast_of(dtype: str, device_type: str) -> AbstractContextManager:
    """The context that computes in one of ``PRECISIONS``."""
    dtype = PRECISIONS[dtype]
    return torch.autocast(device_type, torch.bfloat16 if dtype == torch.float32 else dtype,
                          enabled=dtype != torch.float32)


def make_call(suite: Suite, network: nn.Module, inputs: tuple, work: Workload,
              device: torch.device) -> Callable:
    """One forward pass, or one training step: forward, loss, backward and a step of AdamW."""
    if work.compiler is not None:
        getattr(network, 'backbone', network).compile(backend=work.compiler)
    if work.passes == 'inference':
        def call():
            with torch.no_grad(), autocast_of(work.dtype, device.type):
                suite.infer(network, *inputs)
    else:
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-6)
        scaler = loss_scaler(device.type, enabled=work.dtype == 'float16')

        def call():
            with autocast_of(work.dtype, device.type):
                loss = suite.loss(network, *inputs)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return call


def count(suite: Suite, name: str, size: Sequence[int]) -> dict:
    """Parameters and FLOP of one image; those of the ordinary form for a plain form.

    A training step counts three forward passes, as usual: one, and two products of that size for
    the gradients of inputs and weights.
    """
    network = suite.build(CONTESTANTS[name].plain or name, deploy=False)
    counted = count_flops(network, (1, 3, *suite.padded(size)))
    return dict(parameters=counted.parameters, flops=2 * counted.flops)


def too_big(suite: Suite, network: nn.Module, work: Workload, device: torch.device) -> str:
    """Return the reason why a batch does not fit into memory, an empty string if it does."""
    batch = work.batch
    if batch < BIG_BATCH:
        return ''
    work = work._replace(batch=1, compiler=None)
    call = make_call(suite, network, suite.make_inputs(work, device), work, device)
    call()
    needed, free = measure_memory(call, device) * batch, available_memory_mb(device)
    if needed <= MEMORY_SHARE * free:
        return ''
    return (f'about {needed / 1024:.1f} GB needed ({batch} times that of one image), '
            f'{free / 1024:.1f} GB free')


def run_case(suite: Suite, names: Sequence[str], work: Workload, rounds: int,
             device: torch.device, gemm_size: int = GEMM_SIZE) -> dict:
    """Measure all contestants at one workload, and the matrix speed by products of a size.

    Returns:
        dict: As :mod:`benchmarks.store` keeps it.
    """
    calls, rows = {}, {}
    factor = work.batch * (3 if work.passes == 'training step' else 1)
    with precision(work.dtype) as dtype, TemporaryDirectory() as folder, ExitStack() as stack:
        inputs = suite.make_inputs(work, device)
        peak = measure_gemm(device, dtype, gemm_size)
        for name in names:
            model, runtime = IN_PROCESSES.get(name, (name, None))
            if runtime is None:
                call, reason = start_here(suite, name, work, inputs, device)
            else:
                call, reason = start_peer(suite, model, runtime, work, device, Path(folder))
            if isinstance(call, Peer):
                stack.callback(call.close)
            counted = count(suite, model, work.size)
            rows[name] = dict(form=name, parameters=counted['parameters'],
                              flops=factor * counted['flops'])
            if call is None:
                print(f'{name}: skipped, {reason}', flush=True)
                rows[name].update(skipped=reason)
            else:
                calls[name] = call
        for name, measured in alternate(calls, rounds, device).items():
            rows[name].update(measured)
            if isinstance(calls[name], Peer):  # PyTorch's allocator here knows nothing of it
                del rows[name]['memory_mb']
                rows[name].update(resident_mb=calls[name].close())
        # The faster one: others may use the machine.
        peak = max(peak, measure_gemm(device, dtype, gemm_size))
    case = dict(suite=suite.name, **work._asdict(), rows=list(rows.values()),
                machine=describe_machine(device, {work.dtype: peak}))
    if case.pop('compiler') is not None:
        case['name'] = f'compiled ({work.compiler})'
    return case


def start_here(suite: Suite, name: str, work: Workload, inputs: tuple,
               device: torch.device) -> tuple[Optional[Callable], str]:
    """A contestant of this process; or None, and why it is left out."""
    network = suite.build(name, deploy=work.passes == 'inference').to(device)
    if PRECISIONS[work.dtype] != torch.float32:
        keep_float32(network)  # as the tools do: mmcv's focal loss knows no bfloat16 on a GPU
    reason = too_big(suite, network, work, device)
    return None if reason else make_call(suite, network, inputs, work, device), reason


def start_peer(suite: Suite, model: str, runtime: str, work: Workload, device: torch.device,
               folder: Path) -> tuple[Optional[Callable], str]:
    """A contestant of a process of its own, its file written once; or None, and why not."""
    if work.passes != 'inference' or work.compiler or device.type != 'cpu':
        return None, 'runtimes infer on a CPU only'
    if work.dtype not in TYPES[runtime]:
        return None, f'{runtime} has no {work.dtype} on a CPU'
    folder = folder / model
    if not folder.exists():
        folder.mkdir()
        np.save(folder / INPUT_FILE, suite.export(model, work, folder / MODEL_FILE))
    return Peer(runtime, folder, suite.name, model, work.dtype, torch.get_num_threads()), ''


def parse_size(text: str) -> tuple[int, int]:
    """'800x1333' -> (800, 1333); one number is a square."""
    numbers = [int(part) for part in text.split('x')]
    if len(numbers) not in (1, 2) or min(numbers) < 32:
        raise ValueError(text)
    return (numbers[0], numbers[-1])


def parse_args(suite: Suite, sizes: Sequence[str]) -> argparse.Namespace:
    """The command line of a suite."""
    parser = argparse.ArgumentParser(
        prog=f'python -m benchmarks.{suite.name}',
        description='All combinations of the chosen passes, sizes, batches and types are '
                    'measured, the chosen models taking turns. CPU threads: OMP_NUM_THREADS.')
    parser.add_argument('--models', nargs='+', default=[*CONTESTANTS, *DEFAULT_PROCESSES],
                        choices=[*CONTESTANTS, *IN_PROCESSES], metavar='MODEL',
                        help=', '.join([*CONTESTANTS, *IN_PROCESSES]))
    parser.add_argument('--passes', nargs='+', default=['inference'], choices=PASSES)
    parser.add_argument('--sizes', nargs='+', type=parse_size, metavar='HxW',
                        default=[parse_size(size) for size in sizes])
    parser.add_argument('--batches', nargs='+', type=int, default=[1])
    parser.add_argument('--dtypes', nargs='+', default=['float32'], choices=PRECISIONS)
    parser.add_argument('--compile', action='store_const', const='inductor', dest='compiler',
                        help='torch.compile the backbones, for the one size')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', type=torch.device, default=default_device())
    parser.add_argument('--json', metavar='FILE', help='merge the results into this file')
    return parser.parse_args()


def title(case: dict) -> str:
    """One line that says what was measured."""
    machine = case['machine']
    name = f', {case["name"]}' if case.get('name') else ''
    return ('{suite}, {passes}, {batch} x {size[0]} x {size[1]}, {dtype}'.format(**case)
            + f'{name} ({machine["hardware"]}, {machine["threads"]} thread(s), '
            f'{machine["allocator"]})')


def main(suite: Suite, sizes: Sequence[str]) -> None:
    """Run the suite as the command line says; every case is stored as soon as it is done."""
    def run():
        args = parse_args(suite, sizes)
        logging.disable(logging.INFO)  # one line per weight that is initialised
        combinations = itertools.product(args.passes, args.batches, args.sizes, args.dtypes)
        for work in itertools.starmap(Workload, combinations):
            work = work._replace(compiler=args.compiler)
            case = run_case(suite, args.models, work, args.rounds, args.device)
            print(f'\n{title(case)}\n\n{case_table(case)}', flush=True)
            if args.json:
                save_cases(args.json, [case])
            gc.collect()

    run_tool(run)
