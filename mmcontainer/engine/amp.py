"""Automatic mixed precision on every device."""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

from ..errors import UserError
from ..ops.precision import without_autocast
from ..type_names import type_name

DTYPES = {'fp16': 'float16', 'bf16': 'bfloat16'}
# Methods of MMDetection's heads that take what a network gave and return losses: the matching of
# predictions and targets is among what they do.
LOSSES = ('loss_by_feat', 'loss_and_target')


def to_float32(value: Any) -> Any:
    """Half-precision tensors in lists and tuples as float32, everything else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if type(value) in (list, tuple):
        return type(value)(to_float32(item) for item in value)
    return value


def _exact(function: Callable, device_type: str) -> Callable:
    @wraps(function)
    def call(*args, **kwargs):
        with without_autocast(device_type):
            return function(*to_float32(args),
                            **{key: to_float32(value) for key, value in kwargs.items()})

    return call


def keep_losses_exact(model: nn.Module) -> None:
    """Let all heads of a detector match and compute losses in float32 under autocast, in place."""
    device_type = next(model.parameters()).device.type
    for module in model.modules():
        for name in LOSSES:
            if callable(getattr(module, name, None)):
                setattr(module, name, _exact(getattr(module, name), device_type))


def _in_bfloat16(forward: Callable, device_type: str) -> Callable:
    @wraps(forward)
    def call(*args, **kwargs):
        with torch.autocast(device_type, torch.bfloat16):
            return to_float32(forward(*args, **kwargs))

    return call


def _networks(model: nn.Module) -> Iterator[nn.Module]:
    """Parts of a model that hold its matrix products and give no coordinates."""
    for name in ('backbone', 'neck'):
        if isinstance(getattr(model, name, None), nn.Module):
            yield getattr(model, name)
    try:
        from mmdet.models.dense_heads import AnchorHead
    except ImportError:  # classifiers need no MMDetection
        return
    yield from (module for module in model.modules() if isinstance(module, AnchorHead))


def use_bfloat16(model: nn.Module) -> None:
    """Let backbone, neck and dense heads infer in bfloat16, in place; weights stay float32.

    Each of them returns float32. What follows is exact by construction: anchors and boxes (whose
    coordinates bfloat16 would round to 8 bits, 4 pixels at 1000), scores, suppression, and encoder
    and decoder of the DETR family.

    Args:
        model (nn.Module): Detector or classifier, on the device where it will run.

    Raises:
        UserError: If the GPU has no bfloat16.
    """
    device_type = next(model.parameters()).device.type
    if device_type == 'cuda' and not torch.cuda.is_bf16_supported():
        raise UserError(f'--amp bf16: {torch.cuda.get_device_name()} has no bfloat16; run without '
                        '--amp.')
    for network in _networks(model):
        network.forward = _in_bfloat16(network.forward, device_type)


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
        self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
        self.cast_dtype = torch.bfloat16

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Autocast to bfloat16 on the CPU, whatever devices the machine has besides."""
        with OptimWrapper.optim_context(self, model), torch.autocast('cpu', torch.bfloat16):
            yield


def check_precision(cfg) -> None:
    """Check that the precision which a config itself asks for is possible on this machine.

    Raises:
        UserError: MMEngine's AmpOptimWrapper without a GPU, which it would refuse after the data
            was read.
    """
    kind = type_name((cfg.get('optim_wrapper') or {}).get('type'))
    if kind == 'AmpOptimWrapper' and not torch.cuda.is_available():
        raise UserError('optim_wrapper.type of the config is AmpOptimWrapper, which needs a CUDA '
                        'GPU, and none was found: on the CPU use --amp bf16, or --cfg-options '
                        'optim_wrapper.type=OptimWrapper and no loss_scale or dtype.')


def apply_amp(cfg, precision: str) -> None:
    """Train in mixed precision.

    Args:
        cfg (Config): Config whose ``optim_wrapper`` is changed in place.
        precision (str): 'fp16' (with dynamic loss scaling, GPU only) or 'bf16' (GPU or CPU).

    Raises:
        UserError: If the machine cannot, or the config has an optimizer wrapper of another kind.
    """
    has_cuda = torch.cuda.is_available()
    if precision == 'fp16' and not has_cuda:
        raise UserError('--amp fp16 needs a CUDA GPU, and none was found: on the CPU use --amp '
                        'bf16, or train without --amp.')
    if precision == 'bf16' and has_cuda and not torch.cuda.is_bf16_supported():
        raise UserError(f'--amp bf16: {torch.cuda.get_device_name()} has no bfloat16; '
                        'use --amp fp16.')
    wrapper = cfg.get('optim_wrapper')
    if wrapper is None:
        raise UserError('--amp: the config has no optim_wrapper, so there is nothing to train.')
    known = ('OptimWrapper', 'AmpOptimWrapper', CPUAmpOptimWrapper.__name__)
    kind = type_name(wrapper.get('type', known[0]))
    if kind not in known:
        raise UserError(f'--amp replaces one of {", ".join(known)}, but optim_wrapper.type of this '
                        f'config is {kind}: set its precision in the config.')
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(key, None)
    if has_cuda:
        wrapper.update(
            type='AmpOptimWrapper',
            dtype=DTYPES[precision],
            loss_scale='dynamic' if precision == 'fp16' else dict(enabled=False))
    else:
        wrapper.type = CPUAmpOptimWrapper.__name__
