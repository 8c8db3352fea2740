"""Reading of PyTorch's archives without running code of theirs, where PyTorch itself cannot.

Before PyTorch 2.6 ``weights_only=True`` knows no list of classes that are safe, and files in its
formats of before 2020 get around it (CVE-2025-32434). Here archives are read by Python's unpickler
with a closed list of what a file may name and fill, and other formats are refused.
"""
import _compat_pickle
import functools
import pickle
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compat import checkpoint_globals
from ..torch_compat import torch_load_as_called


@functools.cache
def _tensor_globals() -> dict[str, object]:
    """What PyTorch's own files of tensors name."""
    from torch._weights_only_unpickler import _get_allowed_globals
    dtypes = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    return {**_get_allowed_globals(), **dtypes, 'torch.device': torch.device, 'builtins.set': set,
            'collections.Counter': Counter, '_codecs.encode': _latin1}


def _latin1(text: str, encoding: str) -> bytes:
    """How the bytes of an array stand in a pickle of protocol 2."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL _codecs.encode for {encoding}')
    return text.encode('latin1')


class _Unpickler(pickle._Unpickler):
    """Python's unpickler, the slow one: of the other one BUILD cannot be restricted."""

    # {full name: object} that files may name beside tensors.
    globals: Mapping[str, object] = {}

    def find_class(self, module: str, name: str) -> Any:
        if self.proto < 3:  # written with Python 2's names
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        full_name = f'{module}.{name}'
        for table in (self.globals, _tensor_globals()):
            if full_name in table:
                return table[full_name]
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {full_name} was not allowed')

    def load_build(self) -> None:
        """Fill the state of an object; never that of a class or function."""
        kind = type(self.stack[-2])
        filled = (Tensor, torch.nn.Parameter, OrderedDict, np.ndarray, *self.globals.values())
        if kind not in filled and not issubclass(kind, np.dtype):
            raise pickle.UnpicklingError(f'Can only build tensors and records, not {kind.__name__}')
        super().load_build()

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def load_archive(path: Path, records: Mapping[str, object]) -> Any:
    """Read a file of ``torch.save`` in its format of today, a zip archive, onto the CPU.

    Args:
        path (Path): The archive; :func:`~.integrity.check_file` has found no TorchScript in it.
        records (Mapping[str, object]): {full name: class} of further objects that it may hold.

    Returns:
        Any: What it holds.

    Raises:
        pickle.UnpicklingError: It asks for anything else.
    """
    allowed = {**checkpoint_globals(), **records}
    unpickler = type('Unpickler', (_Unpickler, ), {'globals': allowed})
    with torch_load_as_called():
        return torch.load(path, map_location='cpu', weights_only=False, pickle_module=(
            SimpleNamespace(Unpickler=unpickler, __name__='restricted')))
