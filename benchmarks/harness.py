"""Shared by all benchmarks: calls in turns, memory, the machine, and its matrix speed.

All contestants of a case live in one process and take turns within every round, so that whatever
else the machine does meets them alike. Ratios are taken within rounds.
"""
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Optional

import torch
import torch.nn.functional as F

from mmcontainer.machine import cpu_flags, cpu_name, git, read_proc

GEMM_SIZE = 2048
GEMM_REPEATS = 5
PAUSE_SECONDS = 0.05
COPY_MB = {'cpu': 64, 'cuda': 1024}  # several times the last cache
# What a case may compute in. 'float32' is exact; 'tf32' lets a GPU round the factors of products
# and convolutions to 10 bits (elsewhere it changes nothing). PyTorch's own default lies between the
# two: convolutions in TF32, products in float32. Half precision is autocast.
PRECISIONS = {'float32': torch.float32, 'tf32': torch.float32, 'bfloat16': torch.bfloat16,
              'float16': torch.float16}
PACKAGES = ('mmcontainer', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain')
# A case that would need more of the free memory is left out.
MEMORY_SHARE = 0.7


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


@contextmanager
def precision(name: str) -> Iterator[torch.dtype]:
    """Context of one of ``PRECISIONS``: TF32 is allowed or not; gives the type of autocast."""
    settings = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = name == 'tf32'
        yield PRECISIONS[name]
    finally:
        for setting, value in zip(settings, before):
            setting.allow_tf32 = value


def measure_time(function: Callable, device: torch.device) -> float:
    """Seconds of a call, until the device has finished it."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure_memory(function: Callable, device: torch.device) -> float:
    """Peak extra memory of a call in MB, of PyTorch's allocator of the device.

    Unlike the resident set of the process it does not depend on what the C library still holds from
    earlier calls, and it leaves out what oneDNN and MKL take for themselves.
    """
    if device.type == 'cuda':
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        function()
    changes = [event for event in profiler.profiler.kineto_results.events()
               if event.name() == '[memory]']
    held = peak = 0
    start = 'start_ns' if hasattr(torch._C._autograd._KinetoEvent, 'start_ns') else 'start_us'
    for event in sorted(changes, key=lambda event: getattr(event, start)()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def measure_gemm(device: torch.device, dtype: torch.dtype, size: int = GEMM_SIZE) -> float:
    """The fastest matrix product of this machine now, in GFLOP/s (2 per multiply-add).

    The faster of a square product and of the same product as a 1 x 1 convolution in channels_last,
    which go through different libraries on a CPU.
    """
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    # (1, size, size / 32, 32) holds as many values; a convolution's weight is (out, in, 1, 1).
    maps = left.view(1, size // 32, 32, size).permute(0, 3, 1, 2)
    kernel = right.view(size, size, 1, 1)
    calls = (lambda: left @ right, lambda: F.conv2d(maps, kernel))
    with torch.no_grad():
        for call in calls:
            call()
        seconds = min(measure_time(call, device) for _ in range(GEMM_REPEATS) for call in calls)
    return 2 * size**3 / seconds / 1e9


def measure_copy(device: torch.device) -> float:
    """Bandwidth of the device's memory now, in GB/s: bytes read and written by the fastest copy."""
    source = torch.ones(COPY_MB[device.type] * 2**18, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = min(measure_time(lambda: target.copy_(source), device) for _ in range(GEMM_REPEATS))
    return 2 * source.nbytes / seconds / 1e9


def alternate(calls: Mapping[str, Callable],
              rounds: int,
              device: torch.device) -> dict[str, dict]:
    """Call each function once per round, taking turns, and once for its memory.

    Args:
        calls (Mapping[str, Callable]): Contestants, without arguments.
        rounds (int): Times that each is timed, after one call to warm up.
        device (torch.device): Where they work.

    Returns:
        dict[str, dict]: Per contestant ``times`` (one per round, seconds), their median
        ``seconds``, and ``memory_mb``, peak memory of tensors above what was held before the call.
    """
    for call in calls.values():
        call()
    memory = {name: measure_memory(call, device) for name, call in calls.items()}
    times = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds):
        # Another one begins each time, so that none always follows the same.
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            # Threads of the one before go on spinning for a while: 20 ms were seen.
            time.sleep(PAUSE_SECONDS)
            times[name].append(measure_time(calls[name], device))
    return {name: dict(times=values, seconds=statistics.median(values), memory_mb=memory[name])
            for name, values in times.items()}


def available_memory_mb(device: torch.device) -> float:
    """Memory that can still be taken, in MB."""
    if device.type == 'cuda':
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + cached) / 2**20
    return int(read_proc('/proc/meminfo', 'MemAvailable').split()[0]) / 1024


def allocator_name() -> str:
    """Allocator of the CPU's memory, as far as the environment says."""
    preloaded = [os.path.basename(path) for path in os.environ.get('LD_PRELOAD', '').split(':')]
    found = [name for name in preloaded if 'malloc' in name]
    tunables = os.environ.get('GLIBC_TUNABLES')
    return found[0] if found else f'glibc, {tunables}' if tunables else 'glibc'


def package_versions() -> dict[str, str]:
    """Versions of torch and of the OpenMMLab packages that can be imported."""
    versions = dict(python=platform.python_version(), torch=torch.__version__)
    for name in PACKAGES:
        try:
            versions[name] = __import__(name).__version__
        except ImportError:
            versions[name] = 'not installed'
    return versions


def code_state() -> str:
    """Commit of the checkout, and whether the package differs from it.

    A case measured on other code is not to be compared with, so every case says what it ran.
    """
    revision = git('rev-parse', '--short=10', 'HEAD')
    if revision is None:
        return 'no git checkout'
    changed = git('status', '--porcelain', '--untracked-files=no', '--', 'mmcontainer')
    return f'{revision}+changes' if changed else revision


# Taken when the modules are read: files may change during a long run.
CODE = code_state()


def instruction_set() -> str:
    """What vector arithmetic an x86 CPU has: processors of one name differ; else an empty string.

    'AVX2', 'AVX-512', 'AVX-512 with bfloat16' or 'AMX' (products of bfloat16 tiles).
    """
    names = dict(amx_bf16='AMX', avx512_bf16='AVX-512 with bfloat16', avx512f='AVX-512',
                 avx2='AVX2')
    flags = cpu_flags()
    return next((name for flag, name in names.items() if flag in flags), '')


def describe_machine(device: torch.device, gemm: Optional[Mapping[str, float]] = None) -> dict:
    """Everything that a time depends on besides the code.

    Args:
        device (torch.device): Where it was measured.
        gemm (Mapping[str, float], optional): Peaks measured, GFLOP/s by data type.
    """
    on_gpu = device.type == 'cuda'
    cpu = ', '.join(filter(None, (cpu_name(), instruction_set())))
    return dict(
        device=device.type,
        hardware=torch.cuda.get_device_name(device) if on_gpu else cpu,
        cpu=cpu,
        threads=torch.get_num_threads(),
        allocator='CUDA caching' if on_gpu else allocator_name(),
        versions=package_versions(),
        code=CODE,
        gemm_gflops=dict(gemm or {}),
        date=time.strftime('%Y-%m-%d'))
