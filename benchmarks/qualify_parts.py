"""The parts of ``benchmarks.qualify`` that measure; each is run in a process of its own.

    python -m benchmarks.qualify_parts operators OUT --device cuda
"""
import argparse
import gc
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from mmcontainer.cli.tool import run_tool

from . import networks, ops
from .harness import PRECISIONS, describe_machine, measure_copy, measure_gemm, precision
from .models import COATNET, COTNET, LIGHT, PLAIN_LIGHT, RESNET, SWIN
from .networks import Suite, Workload
from .store import case_table, save_cases

OURS = (LIGHT, COTNET, COATNET)
CONTESTANTS = (LIGHT, PLAIN_LIGHT, COTNET, COATNET, RESNET, SWIN)
TINY_CONTESTANTS = dict(backbones=(LIGHT, SWIN), detectors=(LIGHT, ))
SIZE, TINY_SIZE = (800, 1333), (32, 32)
# Products that keep a whole GPU busy; a CPU would take seconds for each.
GEMM, TINY_GEMM = 8192, 256
# The operators at the sizes of an 800 x 1333 image, in the layout that backbones train in.
OPERATORS = (
    'CoT aggregation, stage 1', 'CoT aggregation, stage 3', 'Container attention, stage 4',
    'Container attention, stage 3', 'SMCA attention, stride 32', 'SMCA attention, stride 8',
    'CoAtNet attention, stride 16')
TINY_OPERATORS = {
    'CoT aggregation, tiny': ops.cot(16, 5, 7), 'Container attention, tiny': ops.attention(
        32, 2, 5, 7), 'SMCA attention, tiny': ops.modulated(5, 7),
    'CoAtNet attention, tiny': ops.relative(2, 5, 7)}


def keep(args: argparse.Namespace, name: str, cases: Sequence[dict]) -> None:
    """Print cases, and write them to the file of the part at once."""
    for case in cases:
        title = case.get('name') or f'{case["batch"]} x {case["size"][0]} x {case["size"][1]}'
        print(f'\n{title}, {case["passes"]}, {case["dtype"]}\n\n{case_table(case)}', flush=True)
    save_cases(args.out / f'{name}.json', cases)
    gc.collect()


def peaks(args: argparse.Namespace) -> dict:
    """A case without contestants: bandwidth of a copy, and the matrix speed in every precision."""
    gemm = {}
    for name in PRECISIONS:
        with precision(name) as dtype:
            gemm[name] = measure_gemm(args.device, dtype, args.gemm_size)
    return dict(suite='peaks', passes='', dtype='', rows=[], copy_gb_s=measure_copy(args.device),
                machine=describe_machine(args.device, gemm))


def operators(args: argparse.Namespace) -> None:
    """Operators, forward and backward, in their explicit and their fast form."""
    save_cases(args.out / 'operators.json', [peaks(args)])
    cases = TINY_OPERATORS if args.tiny else {name: ops.CASES[name] for name in OPERATORS}
    for name, operator in cases.items():
        for passes in ops.PASSES:
            for dtype in ('float32', 'bfloat16') if args.tiny else PRECISIONS:
                keep(args, 'operators', [ops.run_case(
                    name, operator, passes, args.rounds, args.device, dtype=dtype,
                    gemm_size=args.gemm_size)])


def workloads(args: argparse.Namespace) -> Iterator[Workload]:
    """What networks run: the important ones first, in case the time limit comes."""
    if args.tiny:
        yield Workload('inference', 1, TINY_SIZE, 'tf32')
        yield Workload('training step', 2, TINY_SIZE, 'float16')
        return
    for dtype in ('float32', 'bfloat16', 'tf32', 'float16'):
        yield Workload('inference', 1, SIZE, dtype)
        yield Workload('training step', 2, SIZE, dtype)
    for dtype in ('bfloat16', 'tf32'):
        yield Workload('inference', 8, SIZE, dtype)


def run_suite(args: argparse.Namespace, suite: Suite) -> None:
    """Networks side by side."""
    for work in workloads(args):
        names = TINY_CONTESTANTS[suite.name] if args.tiny else CONTESTANTS
        if args.tiny and work.passes == 'training step':  # float16 is slow on CPUs
            names = names[:1]
        keep(args, suite.name, [networks.run_case(
            suite, names, work, args.rounds, args.device, args.gemm_size)])


def backbones(args: argparse.Namespace) -> None:
    """Backbones beside what users would pick instead."""
    from .backbones import SUITE
    run_suite(args, SUITE)


def detectors(args: argparse.Namespace) -> None:
    """The same inside of RetinaNet."""
    from .detectors import SUITE
    run_suite(args, SUITE)


def compiled(args: argparse.Namespace) -> None:
    """Backbones under ``torch.compile``; on the CPU without the compiler, which takes minutes."""
    from .backbones import SUITE
    works = [Workload('inference', 1, TINY_SIZE, 'bfloat16', 'aot_eager')] if args.tiny else [
        Workload(passes, batch, SIZE, dtype, 'inductor')
        for passes, batch, dtype in (('inference', 1, 'bfloat16'), ('inference', 1, 'tf32'),
                                     ('training step', 2, 'bfloat16'))]
    names = (LIGHT, RESNET) if args.tiny else (*OURS, RESNET, SWIN)
    for work in works:
        keep(args, 'compiled', [networks.run_case(
            SUITE, names, work, args.rounds, args.device, args.gemm_size)])
        torch._dynamo.reset()


def training_step(args: argparse.Namespace) -> None:
    """Parts of a training step of the demo's detector, in float32 and bfloat16."""
    from . import training_step as steps
    from .trainings import DETECTOR, make_shapes
    folder = make_shapes(args)
    for amp in (None, ) if args.tiny else (None, 'bf16'):
        request = argparse.Namespace(
            config=DETECTOR, cfg_options={'train_dataloader.batch_size': 2 if args.tiny else 16},
            data_root=str(folder), amp=amp, steps=2 if args.tiny else 30, images=4)
        with tempfile.TemporaryDirectory() as work_dir:
            cases = steps.run(request, work_dir)
        # The start is that of this process, which had imported everything before.
        cases = [case for case in cases if case['passes'] != 'start']
        for case in cases:
            steps.show(case)
        save_cases(args.out / 'training_step.json', cases)


def demo(args: argparse.Namespace) -> None:
    """The demo's detector, trained and evaluated."""
    from .trainings import train_demo
    train_demo(args)


def classifier(args: argparse.Namespace) -> None:
    """Container-Light on images of a folder."""
    from .trainings import train_classifier
    train_classifier(args)


PARTS: dict[str, Callable] = {part.__name__: part for part in (
    operators, backbones, detectors, compiled, training_step, demo, classifier)}


def main() -> None:
    """Run the part that is named."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.qualify_parts',
                                     description=__doc__.splitlines()[0])
    parser.add_argument('part', choices=PARTS)
    parser.add_argument('out', type=Path)
    parser.add_argument('--device', type=torch.device, required=True)
    parser.add_argument('--tiny', action='store_true')
    parser.add_argument('--images', type=Path)
    args = parser.parse_args()
    args.rounds, args.gemm_size = (1, TINY_GEMM) if args.tiny else (7, GEMM)
    logging.disable(logging.INFO)  # one line per weight that is initialised
    PARTS[args.part](args)


if __name__ == '__main__':
    run_tool(main)
