"""Automatic mixed precision on every device, by one rule for training and inference.

Autocast is on in the whole model, but for the methods of ``FLOAT32``.
"""
import logging
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

from ..errors import UserError
from ..ops.precision import without_autocast
from ..torch_compat import loss_scaler
from ..type_names import type_name

# Methods that stay float32, with the class of MMDetection or MMPretrain that they belong to.
# bfloat16 would round coordinates to 8 bits, which is 4 pixels at 1000.
FLOAT32 = (
    ('BaseModule', 'loss_by_feat'),  # matches predictions and targets, and compares them
    ('BaseModule', 'loss_and_target'),
    ('BaseModule', 'predict_by_feat'),  # decodes boxes, and suppresses what overlaps
    ('BaseRoIExtractor', 'forward'),  # MMDetection gives regions the type of the maps
    ('DetectionTransformer', 'forward_transformer'),  # queries have coordinates in every layer
    ('DETRHead', 'forward'),
    ('ClsHead', 'forward'))


def to_float32(value: Any) -> Any:
    """Half-precision tensors in lists and tuples as float32, everything else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if type(value) in (list, tuple):
        return type(value)(to_float32(item) for item in value)
    return value


def _in_float32(cls: type, name: str, device_type: str) -> Callable:
    @wraps(getattr(cls, name))
    def call(self, *args, **kwargs):
        with without_autocast(device_type):
            return getattr(cls, name)(self, *to_float32(args),
                                      **{key: to_float32(value) for key, value in kwargs.items()})

    return call


def _in_bfloat16(cls: type, name: str, device_type: str) -> Callable:
    @wraps(getattr(cls, name))
    def call(self, *args, **kwargs):
        with torch.autocast(device_type, torch.bfloat16):
            return getattr(cls, name)(self, *args, **kwargs)

    return call


def _new(*arguments) -> nn.Module:
    subclass = _subclass(*arguments)
    return subclass.__new__(subclass)


@cache
def _subclass(cls: type, names: tuple[str, ...], override: Callable, device_type: str) -> type:
    """A subclass of the same name that overrides the methods ``names``."""
    methods = {name: override(cls, name, device_type) for name in names}

    def reduce(self, protocol):  # pickle would look for the class in the module of ``cls``
        return (_new, (cls, names, override, device_type), *cls.__reduce_ex__(self, protocol)[2:])

    methods['__reduce_ex__'] = reduce
    return type(cls.__name__, (cls, ), {'__module__': cls.__module__, **methods})


def keep_float32(model: nn.Module) -> None:
    """Let the methods of ``FLOAT32`` compute in float32 under autocast, in place.

    Modules become instances of a subclass, as by ``torch.nn.utils.parametrize``: unlike a method
    that is set on an object, this stays right in copies of the model.

    Args:
        model (nn.Module): On the device where it will run.
    """
    device_type = next(model.parameters()).device.type
    for module in model.modules():
        cls = type(module)
        parents = {parent.__name__ for parent in cls.__mro__}
        names = tuple(name for parent, name in FLOAT32 if parent in parents and hasattr(cls, name))
        if names:
            module.__class__ = _subclass(cls, names, _in_float32, device_type)


def prepare_mixed_training(runner) -> None:
    """Apply :func:`keep_float32` to the model of a runner that trains in mixed precision."""
    if is_mixed(runner.optim_wrapper):
        keep_float32(runner.model)


def warn_of_slow_bfloat16() -> None:
    """Say in the log if the CPU has no fast bfloat16, which PyTorch then emulates."""
    if hasattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported') and not (
            torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        print_log('PyTorch emulates bfloat16 on this CPU (x86 needs AVX-512 for it), which takes '
                  'many times as long as float32: leave out --amp bf16.', 'current',
                  logging.WARNING)


def gpu_has_bfloat16() -> bool:
    """Tell whether the GPU has it; ``torch.cuda.is_bf16_supported`` counts emulation, too."""
    return torch.version.hip is not None or torch.cuda.get_device_capability()[0] >= 8


def use_bfloat16(model: nn.Module) -> None:
    """Let a model infer in bfloat16, in place; weights stay float32.

    Args:
        model (nn.Module): Detector or classifier, on the device where it will run.

    Raises:
        UserError: If the GPU has no bfloat16.
    """
    device_type = next(model.parameters()).device.type
    if device_type == 'cuda' and not gpu_has_bfloat16():
        raise UserError(f'--amp bf16: {torch.cuda.get_device_name()} has no bfloat16; run without '
                        '--amp.')
    if device_type == 'cpu':
        warn_of_slow_bfloat16()
    keep_float32(model)
    model.__class__ = _subclass(type(model), ('forward', ), _in_bfloat16, device_type)


def is_mixed(optim_wrapper: Any) -> bool:
    """Tell whether an optimizer wrapper, built or as a config, trains in mixed precision."""
    if isinstance(optim_wrapper, dict):
        return type_name(optim_wrapper.get('type')) in (
            AmpOptimWrapper.__name__, CPUAmpOptimWrapper.__name__)
    return isinstance(optim_wrapper, AmpOptimWrapper)


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(AmpOptimWrapper):
    """bfloat16 autocast on the CPU, which :class:`mmengine.optim.AmpOptimWrapper` refuses.

    Weights, gradients and optimizer states stay float32. bfloat16 has the range of float32, so the
    loss is not scaled; the disabled scaler keeps checkpoints interchangeable with bfloat16 training
    on a GPU.

    Args:
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    def __init__(self, **kwargs):
        # The constructor of AmpOptimWrapper does nothing else but refuse the CPU and build a
        # scaler.
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = loss_scaler('cpu', enabled=False)
        self.cast_dtype = torch.bfloat16
        warn_of_slow_bfloat16()

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Autocast to bfloat16 on the CPU, whatever devices the machine has besides."""
        with OptimWrapper.optim_context(self, model), torch.autocast('cpu', torch.bfloat16):
            yield
