"""The rule by which the fixtures in tests/golden were made: weights and inputs drawn from names.

Every tensor is a draw of NumPy's legacy generator, seeded by the CRC-32 of 'seed:name', so that no
file of weights is needed and other seeds and sizes can be checked as well.
"""
import hashlib
import json
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / 'golden'


def draw(seed, name, shape):
    """Standard normal float32 values for a name."""
    state = np.random.RandomState(zlib.crc32(f'{seed}:{name}'.encode()) & 0x7FFFFFFF)
    return state.standard_normal(tuple(shape)).astype(np.float32)


def make_value(key, shape, dtype, seed, gain):
    """Value of one state-dict entry."""
    if not dtype.startswith('float'):
        return np.zeros(shape, np.int64)
    value = draw(seed, key, shape)
    if key.endswith('running_var'):
        return np.float32(0.5) + np.abs(value) * np.float32(0.25)
    if key.endswith('running_mean'):
        return np.float32(0.1) * value
    if len(shape) == 1:
        offset = 1.0 if key.endswith('weight') else 0.0
        return np.float32(offset) + np.float32(0.1) * value
    return value * np.float32(gain / np.sqrt(np.prod(shape[1:])))


def read_keys(name):
    """List of (key, shape, dtype) of an official model or module."""
    return json.loads((GOLDEN / f'{name}.keys.json').read_text())


@lru_cache(maxsize=1)  # tests of one model follow each other, and drawing it takes seconds
def _drawn(name, seed, gain):
    return {key: torch.from_numpy(make_value(key, shape, dtype, seed, gain))
            for key, shape, dtype in read_keys(name)}


def make_state_dict(name, seed, gain):
    """Official state dict of a fixture, as float32 tensors, which nobody may write into."""
    return dict(_drawn(name, seed, gain))


def hash_weights(state_dict):
    """SHA-256 over the bytes of every floating entry, in order."""
    digest = hashlib.sha256()
    for value in state_dict.values():
        if value.is_floating_point():
            digest.update(value.numpy().astype('<f4').tobytes())
    return digest.hexdigest()


class Fixture:
    """One npz file with the weights and the input that belong to it."""

    def __init__(self, file_name):
        self.values = np.load(GOLDEN / f'{file_name}.npz')
        self.name = file_name.split('__')[0]
        self.seed, self.gain = int(self.values['seed']), float(self.values['gain'])
        self.state_dict = make_state_dict(self.name, self.seed, self.gain)

    def __getitem__(self, key):
        return torch.from_numpy(self.values[key])

    def __contains__(self, key):
        return key in self.values.files

    def starting_with(self, prefix):
        """{rest of the key: tensor} of all entries with a prefix."""
        return {key[len(prefix):]: self[key] for key in self.values.files if key.startswith(prefix)}

    def model_input(self, name='input'):
        """Input of a whole-model fixture, checked against its stored hash, as are the weights."""
        image = draw(self.seed, name, self.values[f'{name}_shape'])
        assert hashlib.sha256(image.tobytes()).hexdigest() == str(self.values[f'{name}_sha256'])
        assert hash_weights(self.state_dict) == str(self.values['weights_sha256'])
        return torch.from_numpy(image)

    def relative_error(self, key, tensor):
        """Largest difference to a stored tensor, over the standard deviation of that tensor."""
        tensor = tensor.detach().double()
        if key in self.values.files:
            expected = self[key].double()
            return ((tensor - expected).abs().max() / expected.std(correction=0)).item()
        assert tuple(self.values[f'{key}.shape']) == tuple(tensor.shape)
        found = tensor.reshape(-1)[self[f'{key}.idx'].long()]
        return ((found - self[f'{key}.val'].double()).abs().max() / float(
            self.values[f'{key}.std'])).item()


def unit_errors(fixture, module, ours=lambda key: key):
    """Errors of a module against the fixture of an official one, over the scale of each tensor.

    Compares the output in evaluation and in training mode, and in training mode all gradients and
    the updated statistics. ``ours`` turns an official parameter name into the module's.
    """
    module.load_state_dict({ours(key): value for key, value in fixture.state_dict.items()})
    module = module.double()
    x = fixture['input'].requires_grad_()
    module.eval()
    with torch.no_grad():
        errors = {'out_eval': fixture.relative_error('out_eval', module(x))}
    module.train()
    out = module(x)
    out.backward(fixture['grad_output'])
    errors['out_train'] = fixture.relative_error('out_train', out)
    errors['grad_input'] = fixture.relative_error('grad_input', x.grad)
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    gradients, statistics = fixture.starting_with('grad.'), fixture.starting_with('after.')
    assert set(map(ours, gradients)) == set(parameters)
    # A bias before a batch norm has a gradient of zero: compare on the scale of the others.
    largest = max((value.abs().max().item() for value in gradients.values()), default=0.)
    for key, expected in gradients.items():
        scale = max(expected.abs().max().item(), 1e-6 * largest, 1e-6)
        errors[f'grad.{key}'] = (
            parameters[ours(key)].grad - expected).abs().max().item() / scale
    for key in statistics:
        if not key.endswith('num_batches_tracked'):
            errors[f'after.{key}'] = fixture.relative_error(f'after.{key}', buffers[ours(key)])
    return errors
