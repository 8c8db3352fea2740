"""Marks for tests of what an old PyTorch lacks; docs/compatibility.md says the same to users."""
import pytest
import torch

from mmcontainer.compat import release


def needs_torch(version, what):
    """Skip a test where PyTorch is older."""
    return pytest.mark.skipif(
        release(torch.__version__) < release(version),
        reason=f'{what} needs PyTorch {version}, found {torch.__version__}')


HAS_CPU_FLOAT16 = release(torch.__version__) >= (2, 5, 0)
float16 = pytest.param(torch.float16, marks=needs_torch('2.5.0', 'float16 on a CPU'))
needs_compile = needs_torch('2.6.0', 'torch.compile of a backbone')
needs_export = needs_torch('2.6.0', 'torch.export of a backbone')
