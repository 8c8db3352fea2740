"""What differs between PyTorch 2.1 and the newest one. No other module asks for a version.

What an old PyTorch has in another form is wrapped here; for what it lacks altogether there is
:func:`require`.
"""
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Optional

import torch

from .compat import release
from .errors import UserError

TORCH = release(torch.__version__)
# Before, what weights_only=True promises can be broken by files in PyTorch's formats of before
# 2020 (CVE-2025-32434), and it cannot be told which classes are safe.
HAS_SAFE_LOAD = TORCH >= (2, 6, 0)
# It comes with Triton 3.1. The kernels were never compiled by Triton 2.
HAS_TRITON_3 = TORCH >= (2, 5, 0) and importlib.util.find_spec('triton') is not None


def require(what: str, version: str) -> None:
    """Refuse something that the installed PyTorch is too old for.

    Args:
        what (str): Begins the message, for example '--compile'.
        version (str): The first PyTorch that can do it.

    Raises:
        UserError: Names both versions.
    """
    if TORCH < release(version):
        raise UserError(f'{what} needs PyTorch {version} or newer, found {torch.__version__}.')


@contextmanager
def torch_load_as_called() -> Iterator[None]:
    """Context in which no variable of the environment changes what ``torch.load`` was told."""
    names = ('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_WEIGHTS_ONLY_LOAD')
    values = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(values)


# ---------------------------------------------------------------- recording of operators

def is_compiling() -> bool:
    """Tell whether ``torch.compile`` records the operators."""
    return hasattr(torch.compiler, 'is_compiling') and torch.compiler.is_compiling()


def is_exporting() -> bool:
    """Tell whether ``torch.export`` records the operators."""
    return hasattr(torch.compiler, 'is_exporting') and torch.compiler.is_exporting()


_for_onnx = False  # no ContextVar, which torch.compile cannot read


@contextmanager
def recording_for_onnx() -> Iterator[None]:
    """Context for a ``torch.export`` whose program becomes an ONNX file."""
    global _for_onnx
    import torch._dynamo.config as settings  # seconds, for those who export only
    before, _for_onnx = _for_onnx, True
    # To look for earlier results takes longer than to compute them: up to half of the time.
    without_cache = settings.patch(fake_tensor_cache_enabled=False) if hasattr(
        settings, 'fake_tensor_cache_enabled') else nullcontext()
    try:
        with without_cache:
            yield
    finally:
        _for_onnx = before


def needs_onnx_operators() -> bool:
    """Tell whether what is recorded must consist of operators that ONNX has."""
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export() or _for_onnx


def nothing_compiled() -> AbstractContextManager:
    """Context in which modules that were compiled run as if they were not, from PyTorch 2.6 on."""
    # Without this module, which takes seconds to import, nothing can have been compiled.
    if 'torch._dynamo' in sys.modules and hasattr(torch.compiler, 'set_stance'):
        return torch.compiler.set_stance('force_eager')
    return nullcontext()


# ---------------------------------------------------------------- autocast

def autocast_dtype(device_type: str) -> Optional[torch.dtype]:
    """The type that autocast rounds to on a kind of device, None where it is off.

    On 'meta', a device that autocast does not know, it always is.
    """
    if device_type == 'meta':
        return None
    if hasattr(torch, 'get_autocast_dtype'):
        is_on = torch.is_autocast_enabled(device_type)
        return torch.get_autocast_dtype(device_type) if is_on else None
    if device_type == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def loss_scaler(device_type: str, enabled: bool):
    """A scaler of losses for float16; one that is not enabled does nothing, and needs no GPU."""
    if hasattr(torch.amp, 'GradScaler'):
        return torch.amp.GradScaler(device_type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)


# ---------------------------------------------------------------- operators

_LIBRARY = torch.library.Library('mmcontainer', 'DEF')


def define_operator(schema: str, kernel: Callable, shapes: Callable, save_inputs: Callable,
                    differentiate: Callable) -> Callable:
    """Make a function one operator of PyTorch, ``torch.ops.mmcontainer.NAME``.

    It is what ``torch.library.custom_op`` does from PyTorch 2.4 on.

    Args:
        schema (str): Name, arguments and results: 'name(Tensor x, int k) -> Tensor'.
        kernel (Callable): Computes it, on every device.
        shapes (Callable): Gives results without values, for tensors that have none.
        save_inputs (Callable): (ctx, inputs, output), as ``setup_context`` of an
            ``autograd.Function``.
        differentiate (Callable): (ctx, *gradients), as its ``backward``.

    Returns:
        Callable: The operator.
    """
    name = schema.partition('(')[0]
    _LIBRARY.define(schema)
    operator = getattr(torch.ops.mmcontainer, name).default

    def forward(*inputs):
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    function = type(name, (torch.autograd.Function, ), dict(
        forward=staticmethod(forward), setup_context=staticmethod(save_inputs),
        backward=staticmethod(differentiate)))
    _LIBRARY.impl(name, kernel, 'CompositeExplicitAutograd')
    _LIBRARY.impl(name, shapes, 'Meta')
    _LIBRARY.impl(name, function.apply, 'Autograd')
    return operator
