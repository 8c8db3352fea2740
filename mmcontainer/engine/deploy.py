"""What inference does to a model before the first image: fold norms, choose precision, compile."""
import os
import shutil
from typing import Optional

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from ..backbones import BaseBackbone
from ..errors import UserError
from .amp import use_bfloat16


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside of a wrapper for distributed runs."""
    return model.module if is_model_wrapper(model) else model


def fold_norms(model: nn.Module) -> int:
    """Re-parameterise all backbones of this package inside a model, in place.

    Returns:
        int: How many there are.
    """
    backbones = [module for module in model.modules() if isinstance(module, BaseBackbone)]
    for backbone in backbones:
        backbone.switch_to_deploy()
    return len(backbones)


def compile_backbone(model: nn.Module) -> None:
    """Compile the backbone's forward with ``torch.compile``, in place.

    Only the backbone: it is most of the work, while heads and losses, whose shapes depend on the
    data, break the graph at every step. Names of weights stay as they are.

    Args:
        model (nn.Module): Detector or classifier, or a wrapper around one.

    Raises:
        UserError: If the model has no backbone, or there is no compiler for the CPU.
    """
    model = unwrap(model)
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        raise UserError(f'--compile compiles the backbone, and {type(model).__name__} has none.')
    compiler = os.environ.get('CXX', 'g++')
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise UserError(f'--compile needs a C++ compiler, and {compiler} was not found: install '
                        'g++, or run without --compile.')
    # Image sizes differ from batch to batch: without dynamic shapes it would compile three times.
    backbone.compile(dynamic=True)
    print_log('The backbone is compiled: the first iterations, and the first with images of other '
              'sizes, take minutes on a CPU.', logger='current')


def prepare_for_inference(model: nn.Module, amp: Optional[str], compiled: bool) -> None:
    """Apply ``--amp`` and ``--compile``, in place."""
    if amp is not None:
        use_bfloat16(unwrap(model))
    if compiled:
        compile_backbone(model)


@HOOKS.register_module()
class FoldNormsHook(Hook):
    """Fold the norms of backbones when a test begins: once all weights are loaded."""
    priority = 'LOWEST'

    def before_test_epoch(self, runner) -> None:
        if any(type(hook).__name__ == 'EMAHook' for hook in runner.hooks):
            # It exchanges weights one by one, before and after the test.
            print_log('Norms stay unfolded, because EMAHook exchanges the weights of the model.',
                      logger='current')
            return
        if fold_norms(runner.model):
            print_log('The norms of the backbone are folded into its convolutions; --no-deploy '
                      'leaves them.', logger='current')
