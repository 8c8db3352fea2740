"""What all benchmarks measure of their own process and machine."""
import ctypes
import gc
import platform
import time

import torch


def read_status(field):
    """A field of this process's memory statistics, in MB."""
    with open('/proc/self/status') as status:
        for line in status:
            if line.startswith(field + ':'):
                return int(line.split()[1]) / 1024
    raise RuntimeError(f'/proc/self/status has no {field}; this benchmark needs Linux.')


def measure_peak(function):
    """Peak of the resident set during a call, above what it was before, in MB."""
    gc.collect()
    ctypes.CDLL('libc.so.6').malloc_trim(0)
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # resets the peak
    before = read_status('VmRSS')
    function()
    return read_status('VmHWM') - before


def cpu_name():
    """Name of the CPU."""
    with open('/proc/cpuinfo') as info:
        names = (line.split(':')[1].strip() for line in info if line.startswith('model name'))
        return next(names, platform.processor())


def measure_time(function, device):
    """Seconds of a call, until the device has finished it."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure_memory(function, device):
    """Peak extra memory of a call in MB: of CUDA's allocator, or of the process's resident set."""
    if device.type != 'cuda':
        return measure_peak(function)
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def measure_allocated(function, device):
    """Peak extra memory of a call in MB, of PyTorch's allocator of the device.

    Unlike the resident set it does not depend on what the C library still holds from earlier calls
    of others, and it leaves out what oneDNN and MKL take for themselves.
    """
    if device.type == 'cuda':
        return measure_memory(function, device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        function()
    changes = [event for event in profiler.profiler.kineto_results.events()
               if event.name() == '[memory]']
    held = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20
