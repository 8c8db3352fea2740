"""The device of the tests marked 'gpu'.

They run on a GPU where there is one, on full models. MMCONTAINER_GPU_TESTS_DEVICE=cpu runs the same
tests on the CPU, on small models, so that they are known to work before a GPU is there. Otherwise
they are skipped.
"""
import os

import pytest
import torch

VARIABLE = 'MMCONTAINER_GPU_TESTS_DEVICE'


@pytest.fixture(scope='session', autouse=True)
def device():
    """Where the tests of this folder run."""
    name = os.environ.get(VARIABLE)
    if name not in (None, 'cuda', 'cpu'):
        pytest.fail(f'{VARIABLE} is cuda or cpu, not {name!r}')
    if name != 'cpu' and not torch.cuda.is_available():
        if name == 'cuda':
            pytest.fail(f'{VARIABLE}=cuda, but PyTorch finds no GPU')
        pytest.skip(f'needs a GPU ({VARIABLE}=cpu runs it on small models)')
    return torch.device(name or 'cuda')


@pytest.fixture(scope='session')
def tiny(device):
    """Whether models are to be small."""
    return device.type == 'cpu'


@pytest.fixture
def cuda(device):
    """The device of a test that makes sense on CUDA only."""
    if device.type != 'cuda':
        pytest.skip('is about CUDA itself')
    return device
