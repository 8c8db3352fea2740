"""The Triton kernels compiled to machine code for GPUs that this machine does not have.

Compilation takes no GPU. What the compiler made says what would be slow there: registers beyond
the 255 that a thread has go to memory (spills), and narrow loads waste bandwidth.
"""
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
import torch
from aggregation_cases import channels_last as in_channels_last

pytest.importorskip('triton.backends', reason='needs Triton 3')
triton = pytest.importorskip('triton')

# Ampere and Hopper.
CAPABILITIES = (80, 90)
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
# Registers of a thread; a multiprocessor has 65536, so that 255 each are 256 threads at once.
FORWARD_REGISTERS, BACKWARD_REGISTERS = 208, 255


def _maps(channels_last, dtype, sharing=8, groups=8, size=(40, 48)):
    """x and weight (B, M, G, K, H, W) of one image."""
    maps = [torch.empty(1, sharing * groups, *size, dtype=dtype),
            torch.empty(1, 1, groups, 9, *size, dtype=dtype)]
    if channels_last:
        maps = list(map(in_channels_last, maps))
    return maps


def compile_kernel(kernel, capability, dtype, channels_last, even, **shape):
    """What Triton compiles for a launch.

    Args:
        kernel (triton.JITFunction): Forward or backward.
        capability (int): 80 is compute capability 8.0.
        dtype (str): Triton's name of a type.
        channels_last (bool): Layout of all maps.
        even (bool): Sizes and strides are multiples of 16, which Triton compiles separately.
        shape: Of :func:`_maps`.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmcontainer.ops import _local_aggregation_triton as triton_form
    _, sizes = triton_form._plan(*_maps(channels_last, DTYPES[dtype], **shape), 3, 1)
    # Triton makes a constant of every argument that is 1, such as the stride of the innermost
    # dimension, and compiles for those that are multiples of 16.
    innermost = '_channel' if channels_last else '_position'
    signature, constants, hints = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name.isupper() or name.endswith(innermost) or sizes.get(name) == 1:
            signature[name], constants[i, ] = 'constexpr', sizes.get(name, 1)
            continue
        is_stride = name.endswith(('_image', '_channel', '_position'))
        signature[name] = 'i32' if is_stride or name in sizes else f'*{dtype}'
        # PyTorch's allocators align every tensor.
        is_even = even if is_stride else sizes[name] % 16 == 0 if name in sizes else True
        if is_even:
            hints[i, ] = [['tt.divisibility', 16]]
    return triton.compile(ASTSource(kernel, signature, constants, hints),
                          target=GPUTarget('cuda', capability, 32),
                          options=dict(num_warps=sizes['num_warps']))


def read_resources(cubin, folder):
    """Registers of a thread, and the bytes of memory that it spills to or keeps arrays in."""
    tool = Path(importlib.util.find_spec('triton').origin).parent / 'backends/nvidia/bin/cuobjdump'
    file = folder / 'kernel.cubin'
    file.write_bytes(cubin)
    text = subprocess.run([str(tool), '--dump-resource-usage', str(file)], capture_output=True,
                          text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r'(REG|STACK|LOCAL):(\d+)', text)}
    return found['REG'], found['STACK'] + found['LOCAL']


def _kernels():
    from mmcontainer.ops import _local_aggregation_triton as triton_form
    return ((triton_form._forward_kernel, FORWARD_REGISTERS),
            (triton_form._backward_kernel, BACKWARD_REGISTERS))


@pytest.mark.slow
@pytest.mark.parametrize('channels_last', [False, True], ids=['contiguous', 'channels_last'])
@pytest.mark.parametrize('dtype', list(DTYPES))
@pytest.mark.parametrize('capability', CAPABILITIES)
def test_nothing_is_spilled(capability, dtype, channels_last, tmp_path):
    """For the 8 channels that share a weight in every CoTNet; maps of even and of odd sizes."""
    for kernel, limit in _kernels():
        for even in (True, False):
            compiled = compile_kernel(kernel, capability, dtype, channels_last, even)
            registers, spilled = read_resources(compiled.asm['cubin'], tmp_path)
            assert spilled == 0 and 0 < registers <= limit, (kernel.__name__, even, registers)


@pytest.mark.parametrize('channels_last', [False, True], ids=['contiguous', 'channels_last'])
@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
def test_values_are_loaded_four_at_a_time(dtype, channels_last):
    """But for the 8 groups of stage 1 in channels_last, of which Triton sees no multiple of 16."""
    for kernel, _ in _kernels():
        ptx = compile_kernel(kernel, 80, dtype, channels_last, even=True, groups=16).asm['ptx']
        assert re.search(r'ld\.global\.v4|ld\.global\.v2\.b32', ptx), kernel.__name__
        assert re.search(r'st\.global\.v4|st\.global\.v2\.b32', ptx), kernel.__name__


def test_spills_are_seen(tmp_path, monkeypatch):
    """Eight times as many values in a thread do not fit: the test above can fail."""
    from mmcontainer.ops import _local_aggregation_triton as triton_form
    monkeypatch.setattr(triton_form, 'TILE_ELEMENTS', 8 * triton_form.TILE_ELEMENTS)
    compiled = compile_kernel(triton_form._backward_kernel, 80, 'fp32', False, even=False)
    assert read_resources(compiled.asm['cubin'], tmp_path)[1] > 0
