"""Whole and damaged files, and tensors that are no weights."""
import shutil
import sys
import zipfile

import pytest
import torch
from torch import nn
from torch_versions import needs_torch

from mmcontainer.backbones import Container
from mmcontainer.checkpoints import (
    CorruptCheckpointError,
    KeyMismatchError,
    check_file,
    convert,
    file_hash,
    load_backbone,
    load_file,
    read_weights,
    save_with_hash,
    unwrap_state_dict,
)

WEIGHTS = {'weight': torch.arange(1000.), 'bias': torch.ones(3)}


def test_a_flipped_bit_is_noticed_by_the_checksums(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(WEIGHTS, path)
    content = path.read_bytes()
    start = content.index(WEIGHTS['weight'].numpy().tobytes())
    check_file(path)
    for position in (start, start + 1999, start + 3999):
        damaged = bytearray(content)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(CorruptCheckpointError, match='weights.pth.*checksum of .*data/0'):
            load_file(path)


def test_an_archive_does_not_unpack_to_more_than_its_size(tmp_path):
    torch.save({'weight': torch.zeros(100_000)}, tmp_path / 'plain.pth')
    with zipfile.ZipFile(tmp_path / 'plain.pth') as plain, zipfile.ZipFile(
            tmp_path / 'small.pth', 'w', zipfile.ZIP_DEFLATED) as small:
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    with pytest.raises(CorruptCheckpointError, match='some other program compressed'):
        load_file(tmp_path / 'small.pth')


def test_a_program_and_a_forbidden_file_are_called_so(tmp_path, monkeypatch):
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / 'program.pt'))
    with pytest.raises(CorruptCheckpointError, match='program of TorchScript'):
        load_file(tmp_path / 'program.pt')

    def forbid(*_):
        raise PermissionError

    # Permissions do not stop root; and a global of the module goes before the builtin.
    monkeypatch.setattr('mmcontainer.checkpoints.integrity.open', forbid, raising=False)
    with pytest.raises(CorruptCheckpointError, match='program.pt cannot be read'):
        check_file(tmp_path / 'program.pt')


@needs_torch('2.6.0', 'saving without checksums')
def test_files_without_checksums_load(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(WEIGHTS, tmp_path / 'weights.pth')
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_weights(tmp_path / 'weights.pth')[0]['weight'], WEIGHTS['weight'])


@pytest.mark.parametrize('content, text', [
    (b'', 'it is empty'), (b'  <!DOCTYPE html><html>', 'a web page'), (b'PK\x03\x04abc', 'its end'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'PyTorch cannot read it'),
    (bytes(100), 'PyTorch cannot read it'), (b'\x80', 'PyTorch cannot read it')])
def test_what_is_no_checkpoint_is_said(tmp_path, content, text):
    path = tmp_path / 'some.pth'
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=f'some.pth .*{text}'):
        load_file(path)


def test_the_hash_in_a_full_name_is_checked(tmp_path):
    path = save_with_hash(WEIGHTS, tmp_path / 'a.pth')
    check_file(path)
    other = path.with_name(f'b-{file_hash(path)[::-1]}.pth')
    shutil.copy(path, other)
    with pytest.raises(CorruptCheckpointError, match='content its name promises'):
        load_file(other)
    dated = path.with_name('run-20261125.pth')  # digits of a hash as well
    shutil.copy(path, dated)
    check_file(dated)


def test_safetensors(tmp_path, monkeypatch):
    safetensors = pytest.importorskip('safetensors.torch')
    path = tmp_path / 'weights.safetensors'
    safetensors.save_file(WEIGHTS, path)
    assert torch.equal(read_weights(path)[0]['weight'], WEIGHTS['weight'])
    content = path.read_bytes()
    # The length of its header makes it begin as a page of HTML would: with ' <'.
    length = int.from_bytes(content[:8], 'little')
    spaces = b' ' * (0x3c20 - length)
    path.write_bytes((0x3c20).to_bytes(8, 'little') + content[8:8 + length] + spaces
                     + content[8 + length:])
    assert torch.equal(read_weights(path)[0]['weight'], WEIGHTS['weight'])
    path.write_bytes(content[:-10])
    with pytest.raises(CorruptCheckpointError, match='safetensors cannot read it'):
        load_file(path)
    path.write_bytes(content)
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    with pytest.raises(ImportError, match='pip install safetensors'):
        load_file(path)


def test_both_variables_of_pytorch(tmp_path, monkeypatch):
    """Set together they make torch.load fail, whatever the file."""
    torch.save(WEIGHTS, tmp_path / 'weights.pth')
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    read_weights(tmp_path / 'weights.pth')


@pytest.mark.parametrize('change, text', [
    (lambda t: t.to_sparse(), 'sparse_coo'),
    (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), 'quantised'),
    (lambda t: t.to('meta'), 'meta device'),
    (lambda t: t.to(torch.complex64), 'complex'),
    (lambda t: t.to(torch.float8_e4m3fn), 'float8_e4m3fn'),
    (lambda t: torch.nested.nested_tensor([t]), 'nested'),
    (lambda t: (t[1:2] / 0).expand(10**12), 'NaN or infinity'),
    (lambda t: t / 0, 'NaN or infinity'),
    (lambda t: torch.full_like(t, torch.nan).half(), 'NaN or infinity')])
def test_tensors_that_are_no_weights_are_named(change, text):
    with pytest.raises(ValueError, match=f'(?s)weight.*{text}|{text}.*weight'):
        unwrap_state_dict({'state_dict': {**WEIGHTS, 'weight': change(WEIGHTS['weight'])}})


def test_a_tensor_that_claims_to_be_huge_is_compared_by_its_shape(tmp_path):
    model = Container('light')
    state = model.state_dict()
    name = next(iter(state))
    state[name] = torch.ones(1).expand(10**12)
    torch.save(state, tmp_path / 'huge.pth')
    with pytest.raises(KeyMismatchError, match=f'of another shape: {name} .*1000000000000'):
        load_backbone(model, tmp_path / 'huge.pth')


def test_two_sets_of_weights_are_not_guessed_between():
    with pytest.raises(ValueError, match="'model' and 'state_dict'"):
        unwrap_state_dict({'model': WEIGHTS, 'state_dict': WEIGHTS})
    averaged = {'weight': torch.zeros(2)}
    assert unwrap_state_dict({'state_dict': WEIGHTS, 'state_dict_ema': averaged}) == averaged


def test_our_own_weights_need_no_conversion():
    model = nn.Module()
    model.backbone, model.neck = Container('light'), nn.Conv2d(2, 2, 1)
    for state in (model.state_dict(), model.backbone.state_dict()):
        with pytest.raises(KeyMismatchError, match='need no conversion.*StrictPretrained'):
            convert(state)


def test_messages_of_backbones_name_the_file(tmp_path):
    model = Container('light')
    path = tmp_path / 'weights.pth'
    cases = [
        (dict(list(model.state_dict().items())[1:]), KeyMismatchError),
        ({'conv.weight': torch.ones(1)}, KeyMismatchError), ({}, ValueError), ([1], ValueError),
        ({key: value.int() for key, value in model.state_dict().items()}, KeyMismatchError)]
    for content, error in cases:
        torch.save(content, path)
        with pytest.raises(error, match='weights.pth'):
            load_backbone(model, path)
    counters = [key for key in model.state_dict() if key.endswith('num_batches_tracked')]
    assert counters
    load_backbone(model, {key: value for key, value in model.state_dict().items()
                          if key not in counters})


def test_numbers_that_the_model_cannot_hold(tmp_path):
    model = Container('light')
    state = model.state_dict()
    name = next(iter(state))
    state[name] = state[name].double()
    load_backbone(model, state)
    state[name] = torch.full_like(state[name], 1e300)
    with pytest.raises(KeyMismatchError, match=f'too large .*{name}'):
        load_backbone(model, state)
    state[name] = torch.full_like(state[name], 1e5, dtype=torch.float32)
    load_backbone(model, state)
    with pytest.raises(KeyMismatchError, match=f'too large .*{name} .model torch.float16'):
        load_backbone(model.half(), state)
