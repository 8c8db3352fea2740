"""The reader of archives for PyTorch before 2.6: on every PyTorch, what it gives and refuses."""
import argparse
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmcontainer.checkpoints import files, restricted
from mmcontainer.checkpoints.restricted import load_archive

RECORDS = {'argparse.Namespace': argparse.Namespace}


class Calls:
    """An object whose unpickling calls something."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class Builds:
    """An object that would change another one: a class, a function or a module."""

    def __init__(self, target):
        self.target = target

    def __reduce_ex__(self, protocol):
        return _identity, (self.target, ), (None, {'__len__': _identity})


def _identity(value):
    return value


def _load(tmp_path, content, **options):
    torch.save(content, tmp_path / 'x.pth', **options)
    return load_archive(tmp_path / 'x.pth', RECORDS)


def test_what_training_writes_comes_back(tmp_path):
    hub = MessageHub('restricted')
    hub.update_scalar('train/loss', np.float64(0.5))
    hub.update_info('epoch', 3)
    model = torch.nn.Linear(2, 3)
    content = dict(
        state_dict=OrderedDict(model.state_dict()), message_hub=hub.state_dict(),
        half=torch.arange(3).to(torch.bfloat16), parameter=model.weight,
        meta=dict(epoch=1, seed=np.int64(7), name='x', on=np.bool_(True), array=np.ones((2, 3))),
        args=argparse.Namespace(lr=0.1), size=torch.Size([1, 2]), dtype=torch.float16, kinds={1})
    found = _load(tmp_path, content)
    torch.testing.assert_close(found['state_dict'], content['state_dict'])
    torch.testing.assert_close(found['parameter'], model.weight)
    assert isinstance(found['parameter'], torch.nn.Parameter)
    buffer = found['message_hub']['log_scalars']['train/loss']
    assert isinstance(buffer, HistoryBuffer) and buffer.current() == 0.5 == buffer.mean()
    assert found['half'].dtype == torch.bfloat16 and found['size'] == torch.Size([1, 2])
    assert found['meta']['seed'] == 7 and (found['meta']['array'] == 1).all()
    assert found['args'] == content['args'] and found['dtype'] == torch.float16
    assert found['kinds'] == {1}


@pytest.mark.parametrize('call', [
    (print, ('x', )), (eval, ('1', )), (getattr, (HistoryBuffer, 'x')),
    (setattr, (HistoryBuffer, 'x', 1)),
    (np.load, ('x', )), (torch.load, ('x', )), (__import__, ('os', )),
    (pickle.loads, (b'', )), (np.lib.format.open_memmap, ('x', ))],
    ids=lambda call: call[0].__name__)
@pytest.mark.parametrize('protocol', [2, 4])
def test_nothing_else_is_called(tmp_path, call, protocol):
    with pytest.raises((pickle.UnpicklingError, ValueError), match='Unsupported|may not ask'):
        _load(tmp_path, [Calls(*call)], pickle_protocol=protocol)


@pytest.mark.parametrize('target', [HistoryBuffer, torch.Tensor, OrderedDict, np.ndarray])
def test_classes_are_not_changed(tmp_path, target, monkeypatch):
    """An allowed name, and then BUILD with a state: ``setattr`` on what everyone uses."""
    own = {f'{__name__}._identity': _identity}
    monkeypatch.setattr(restricted, '_tensor_globals', lambda: {
        **tensor_globals, **own, 'torch.Tensor': torch.Tensor})
    with pytest.raises(pickle.UnpicklingError, match='Can only build'):
        _load(tmp_path, Builds(target))
    assert vars(target).get('__len__') is not _identity


tensor_globals = restricted._tensor_globals()


def test_an_old_pytorch_reads_no_other_format(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'HAS_SAFE_LOAD', False)
    torch.save({'w': torch.ones(2)}, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    with pytest.raises(files.UnsafeCheckpointError, match='before 2020.*CVE-2025-32434'):
        files.load_file(tmp_path / 'old.pth')
    torch.save({'w': torch.ones(2)}, tmp_path / 'new.pth')
    assert files.load_file(tmp_path / 'new.pth')['w'].tolist() == [1., 1.]
