"""Options that change a model after it is built: ``--amp`` at inference, and ``--compile``."""
import os
import shutil
from typing import Optional

import torch
from mmengine.logging import print_log
from torch import nn

from ..engine.amp import use_bfloat16
from ..engine.deploy import unwrap
from ..errors import UserError
from ..torch_compat import require


def compile_backbone(model: nn.Module) -> None:
    """Compile the backbone's forward with ``torch.compile``, in place.

    Only the backbone: it is most of the work, while heads and losses, whose shapes depend on the
    data, break the graph at every step. Names of weights stay as they are.

    Args:
        model (nn.Module): Detector or classifier, or a wrapper around one.

    Raises:
        UserError: If PyTorch is too old, the model has no backbone, or there is no compiler for
            the CPU.
    """
    require('--compile', '2.5.0')
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
