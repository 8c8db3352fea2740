"""Qualify a machine: tests, benchmarks and trainings on its GPU, one report.

    python -m benchmarks.qualify OUT --images FOLDER
    python -m benchmarks.qualify OUT --device cpu --tiny

Every part is a process of its own with a time limit, so that one that fails, hangs or runs out of
memory takes no other along. ``OUT/report.json`` and ``OUT/report.md`` are written anew after every
part, and what a part measures lies in ``OUT/PART.json`` as soon as it is measured.

``--device cpu --tiny`` runs the same on the CPU with sizes that mean nothing: it tells whether all
of it works. tools/gpu_check.sh installs what is needed, and then runs this.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mmcontainer.cli.tool import run_tool
from mmcontainer.errors import UserError
from mmcontainer.fileio import write_text

from .qualify_report import render

ROOT = Path(__file__).resolve().parents[1]
PASSED, FAILED, TIMED_OUT, SKIPPED = 'passed', 'failed', 'timed out', 'skipped'
# Time for a part to end itself after SIGTERM, in seconds.
GRACE = 10


class Part(NamedTuple):
    """A row of the table below.

    Attributes:
        what (str): For the report.
        limit (int): Seconds on a GPU.
    """
    what: str
    limit: int


# In this order. Together, with the compilation of mmcv, half an hour is the most they take.
PARTS = {
    'tests': Part('pytest -m gpu', 420),
    'operators': Part('operators against their explicit forms and a copy', 120),
    'backbones': Part('backbones beside ResNet-50 and Swin-T', 210),
    'detectors': Part('the same inside of RetinaNet', 210),
    'compiled': Part('backbones under torch.compile', 240),
    'training_step': Part('where the time of a training step goes', 90),
    'demo': Part("the demo's detector in float32 and bfloat16", 240),
    'classifier': Part('Container-Light on a folder of images', 180),
}
TINY_LIMIT = 300


def part_command(name: str, args: argparse.Namespace) -> list[str]:
    """Command line of a part."""
    if name == 'tests':
        # Compilation takes longest: what a limit cuts off comes last, and every result has a line.
        files = sorted((ROOT / 'tests' / 'gpu').glob('test_*.py'),
                       key=lambda path: path.name == 'test_inference.py')
        return [sys.executable, '-m', 'pytest', '-m', 'gpu', *map(str, files), '-v', '-p',
                'no:cacheprovider', f'--junitxml={args.out / "tests.xml"}']
    command = [sys.executable, '-m', 'benchmarks.qualify_parts', name, str(args.out),
               '--device', args.device]
    if args.images is not None:
        command += ['--images', str(args.images)]
    return [*command, '--tiny'] if args.tiny else command


def part_environment(args: argparse.Namespace) -> dict[str, str]:
    """The environment, with this checkout importable and the device chosen."""
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    chosen = dict(PYTHONPATH=os.pathsep.join(filter(None, paths)),
                  MMCONTAINER_GPU_TESTS_DEVICE=args.device)
    if args.device == 'cpu':
        chosen['CUDA_VISIBLE_DEVICES'] = ''
    return {**os.environ, **chosen}


def stop(process: subprocess.Popen) -> None:
    """End a part and all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def run_part(name: str, args: argparse.Namespace) -> dict:
    """Run one part to its end or its limit.

    Returns:
        dict: ``name``, ``what``, ``status``, ``seconds``, ``limit``, and ``log``, the file with all
        that it printed; for a part that was left out the ``reason``.
    """
    limit = TINY_LIMIT if args.tiny else PARTS[name].limit
    result = dict(name=name, what=PARTS[name].what, limit=limit, seconds=0., log=f'{name}.log')
    if name == 'classifier' and args.images is None and not args.tiny:
        reason = 'no --images FOLDER with train/CLASS/*.jpg and val/CLASS/*.jpg was given'
        return dict(result, status=SKIPPED, reason=reason)
    start = time.monotonic()
    with open(args.out / result['log'], 'wb') as log:
        process = subprocess.Popen(part_command(name, args), cwd=ROOT, env=part_environment(args),
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        try:
            status = FAILED if process.wait(limit) else PASSED
        except subprocess.TimeoutExpired:
            status = TIMED_OUT
        finally:
            stop(process)
    return dict(result, status=status, seconds=time.monotonic() - start)


def write_report(out: Path, about: dict, results: Sequence[dict]) -> None:
    """Both reports, of all parts so far."""
    report = dict(about, parts=list(results))
    files = {'report.json': json.dumps(report, indent=1) + '\n',
             'report.md': render(out, report)}
    for name, text in files.items():
        write_text(out / name, text)


def describe(args: argparse.Namespace) -> dict:
    """What was asked for, and on which machine.

    Raises:
        UserError: If the device is not there.
    """
    import torch

    from mmcontainer.machine import cpu_name

    from .harness import CODE
    about = dict(device=args.device, tiny=args.tiny, code=CODE, cpu=cpu_name(),
                 cores=len(os.sched_getaffinity(0)), torch=torch.__version__,
                 python=sys.version.split()[0], date=time.strftime('%Y-%m-%d %H:%M'))
    if args.device == 'cpu':
        return dict(about, hardware=about['cpu'])
    if not torch.cuda.is_available():
        raise UserError(f'PyTorch {torch.__version__} finds no GPU here. `nvidia-smi` says whether '
                        'there is a driver; `--device cpu --tiny` runs all parts without one.')
    capability = '.'.join(map(str, torch.cuda.get_device_capability()))
    return dict(about, hardware=torch.cuda.get_device_name(), capability=capability,
                cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.qualify',
                                     description=__doc__.splitlines()[0])
    parser.add_argument('out', metavar='OUT', type=Path, help='folder of the reports')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda')
    parser.add_argument('--tiny', action='store_true',
                        help='sizes that only show that everything runs; two minutes')
    parser.add_argument('--images', type=Path, metavar='FOLDER',
                        help='images for the classifier: train/CLASS/*.jpg and val/CLASS/*.jpg')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), metavar='PART',
                        help=f'of: {", ".join(PARTS)} (all)')
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.images is not None:
        args.images = args.images.resolve()
        if not (args.images / 'train').is_dir():
            raise UserError(f'--images: there is no folder {args.images / "train"}.')
    return args


def main() -> int:
    """Run the parts; 0 if all of them passed or were left out for a reason."""
    args = parse_args()
    about, results = describe(args), []
    args.out.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        if name not in args.parts:
            continue
        print(f'{name}: {PARTS[name].what} ...', flush=True)
        results.append(run_part(name, args))
        write_report(args.out, about, results)
        last = results[-1]
        details = last.get('reason') or f'{last["seconds"]:.0f} s, {args.out / last["log"]}'
        print(f'{name}: {last["status"]} ({details})', flush=True)
    print(f'\n{args.out / "report.md"}')
    return int(any(result['status'] in (FAILED, TIMED_OUT) for result in results))


if __name__ == '__main__':
    run_tool(main)
