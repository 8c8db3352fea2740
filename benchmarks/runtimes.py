"""Exported models in other runtimes, and the same model in PyTorch, each in a process of its own.

Their threads spin for a while after a call, which would slow down another runtime in the same
process. A process computes when it is asked to, and sleeps otherwise::

    parent                                        child
    Peer(...)      -- starts, with folder ->      imports (memory of an idle process), loads the
                                                  model, computes twice
    peer()         -- one line ->                 computes
                   <- one line --
    peer.close()   -- end of file ->              ends
                   <- peak of its memory --
"""
import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mmcontainer.machine import read_proc

ROOT = Path(__file__).resolve().parents[1]
MODEL_FILE, INPUT_FILE = 'model.onnx', 'images.npy'


def _suite_module(args: argparse.Namespace) -> ModuleType:
    return import_module(f'.{args.suite}', __package__)


def load_pytorch(folder: Path, args: argparse.Namespace) -> Callable:
    """The module that was exported, as the tools run it."""
    import torch

    from .networks import autocast_of
    module = _suite_module(args).SUITE.deployed(args.model)
    images = torch.from_numpy(np.load(folder / INPUT_FILE))

    def call():
        with torch.no_grad(), autocast_of(args.dtype, images.device.type):
            module(images)
    return call


def load_onnxruntime(folder: Path, args: argparse.Namespace) -> Callable:
    """The file in onnxruntime, which computes in float32."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(str(folder / MODEL_FILE), options,
                                           providers=['CPUExecutionProvider'])
    feed = {session.get_inputs()[0].name: np.load(folder / INPUT_FILE)}
    return partial(session.run, None, feed)


def load_openvino(folder: Path, args: argparse.Namespace) -> Callable:
    """The file in OpenVINO, for the one size, in the type that is asked for."""
    import openvino
    images = np.load(folder / INPUT_FILE)
    core = openvino.Core()
    model = core.read_model(folder / MODEL_FILE)
    model.reshape(list(images.shape))
    kind = {'float32': 'f32', 'bfloat16': 'bf16'}[args.dtype]
    request = core.compile_model(model, 'CPU', {
        'INFERENCE_NUM_THREADS': args.threads, 'INFERENCE_PRECISION_HINT': kind,
        'PERFORMANCE_HINT': 'LATENCY'}).create_infer_request()
    return partial(request.infer, [images], share_inputs=True)


RUNTIMES = dict(PyTorch=load_pytorch, onnxruntime=load_onnxruntime, OpenVINO=load_openvino)
# What an idle process has imported.
PACKAGES = dict(PyTorch=_suite_module, onnxruntime=lambda args: import_module('onnxruntime'),
                OpenVINO=lambda args: import_module('openvino'))
# onnxruntime's kernels for CPUs know no bfloat16.
TYPES = dict(PyTorch=('float32', 'bfloat16'), onnxruntime=('float32', ),
             OpenVINO=('float32', 'bfloat16'))


class Peer:
    """A model in a runtime, in another process; calling it computes once.

    Args:
        runtime (str): Of ``RUNTIMES``.
        folder (Path): Of the model's file and the images.
        suite, model, dtype (str): Names of the suite (its module), the contestant and the type.
        threads (int): Threads that it computes with.

    Raises:
        RuntimeError: The process ended; its message says why.
    """

    def __init__(self, runtime: str, folder: Path, suite: str, model: str, dtype: str,
                 threads: int):
        command = [sys.executable, '-m', 'benchmarks.runtimes', runtime, str(folder), suite, model,
                   dtype, str(threads)]
        self._name, self._resident_mb = f'{model} in {runtime}', None
        self._process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE)
        self._answer()

    def __call__(self) -> None:
        self._process.stdin.write('\n')
        self._process.stdin.flush()
        self._answer()

    def close(self) -> float:
        """End the process; its peak of resident memory above that of an idle import, in MB.

        A second call gives the same.
        """
        if self._resident_mb is None:
            self._process.stdin.close()
            self._resident_mb = self._answer()['resident_mb']
            self._process.wait()
        return self._resident_mb

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f'{self._name} ended with code {self._process.wait()}; see above.')
        return json.loads(line)


def resident_mb(field: str) -> float:
    """Resident memory of this process now ('VmRSS') or at most ('VmHWM'), in MB."""
    return int(read_proc('/proc/self/status', field).split()[0]) / 1024


def main() -> None:
    """A child."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.runtimes')
    parser.add_argument('runtime', choices=RUNTIMES)
    parser.add_argument('folder', type=Path)
    for name in ('suite', 'model', 'dtype'):
        parser.add_argument(name)
    parser.add_argument('threads', type=int)
    args = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    PACKAGES[args.runtime](args)
    idle = resident_mb('VmRSS')
    call = RUNTIMES[args.runtime](args.folder, args)
    for _ in range(2):  # the second lays out weights for a size that comes again
        call()
    answer()
    for _ in sys.stdin:
        call()
        answer()
    answer(resident_mb=resident_mb('VmHWM') - idle)


if __name__ == '__main__':
    main()
