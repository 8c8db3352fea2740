"""Automatic mixed precision on every device."""
from contextlib import contextmanager

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from .errors import UserError

DTYPES = {'fp16': 'float16', 'bf16': 'bfloat16'}


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
    if wrapper.get('type', known[0]) not in known:
        raise UserError(f'--amp replaces one of {", ".join(known)}, but optim_wrapper.type of this '
                        f'config is {wrapper.type}: set its precision in the config.')
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(key, None)
    if has_cuda:
        wrapper.update(
            type='AmpOptimWrapper',
            dtype=DTYPES[precision],
            loss_scale='dynamic' if precision == 'fp16' else dict(enabled=False))
    else:
        wrapper.type = CPUAmpOptimWrapper.__name__
